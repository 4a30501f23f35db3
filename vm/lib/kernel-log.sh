# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the kernel said, and whether it warned.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

save_log()
{
	[[ -s $run_dir/console ]] || return 0
	# Two runs may save theirs at the same time: never a mixture.
	tr -d '\r' <"$run_dir/console" >"$run_dir/log"
	mv "$run_dir/log" "$log"
}

# Blanks out KCSAN's reports that are not about the module: the rest of the kernel
# has its own races. Nor does it count where the module's side of a race is marked
# (READ_ONCE and the like) and the other one, which isn't, is the kernel's.
without_foreign_races()
{
	awk '
	function finish(i) {
		for (i = 1; i <= n; i++)
			print ours ? block[i] : ""
		n = ours = 0
	}
	/BUG: KCSAN: / { finish(); inside = 1 }
	!inside { print; next }
	{
		block[++n] = $0
		if (access) {
			# The function that it is in.
			if (!marked && /\[kvm_throttle\]/) ours = 1
			access = 0
		}
		if (/ to 0x[0-9a-f]+ of [0-9]+ bytes by /) {
			access = 1
			marked = /\(marked/
		}
	}
	/==============/ { finish(); inside = 0 }
	END { finish() }'
}

# Fails if the kernel warned.
check_log()
{
	local patterns warned

	patterns=$(grep -v -e '^#' -e '^$' "$here/kernel-warnings")
	warned=$(without_foreign_races <"$log" | grep -nE -B 3 -A 30 -e "$patterns" | head -n 120)
	[[ $warned ]] || return 0
	say "the kernel warned ($log):"
	printf '  %s\n' "${warned//$'\n'/$'\n  '}" >&2
	return 1
}
