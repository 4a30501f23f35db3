# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Building the project inside the root.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

# What the project consists of: what git doesn't ignore. In a tree without git
# (a tarball), all but what was built there.
list_sources()
{
	cd "$project"
	if [[ $(git rev-parse --show-cdup 2>/dev/null || echo no) = '' ]]; then
		git -c core.quotePath=off ls-files -co --exclude-standard |
			while IFS= read -r file; do
				# Not what is deleted, but not yet in git.
				[[ ! -f $file && ! -L $file ]] || echo "./$file"
			done
	else
		find . \( -path ./.cache -o -name .tmp_versions \) -prune -o \
			\( -type f -o -type l \) ! -name '*.[oa]' ! -name '*.ko' ! -name '*.mod' \
			! -name '*.mod.c' ! -name '.*.cmd' ! -name '.*.d' ! -name Module.symvers \
			! -name modules.order ! -name kvt_chosen.h -print0 |
			LC_ALL=C xargs -0 grep -Lazs -P '\A\x7fELF'
	fi | LC_ALL=C sort -u
}

# Runs inside the root, with the list on its standard input. Copies by content,
# with new times, so that make sees exactly what changed; removes what is gone
# from the project.
sync_sources()
{
	set -euo pipefail
	mkdir -p /build/src
	cat >/build/sources.new
	rsync -lp --checksum --files-from=/build/sources.new /src /build/src
	if [[ -e /build/sources ]]; then
		LC_ALL=C comm -23 <(LC_ALL=C sort /build/sources) /build/sources.new |
			(cd /build/src && xargs -r -d '\n' rm -f --)
	fi
	mv /build/sources.new /build/sources
}

# Runs inside the root. `modprobe kvm_throttle` needs an index of all modules of
# the kernel $2 below $1, which would take long in the emulated machine.
index_modules()
{
	local base=/build/depmod/lib/modules/$2 installed=$1/lib/modules/$2 file

	set -euo pipefail
	rm -rf /build/modules
	[[ -e /build/src/kvm_throttle.ko ]] || return 0
	if [[ ! $base/modules.dep -nt /build/src/kvm_throttle.ko ]]; then
		rm -rf /build/depmod
		mkdir -p "$base/updates"
		# Not in a kernel of our own: all is built in.
		[[ ! -d $installed/kernel ]] || ln -s "$installed/kernel" "$base/kernel"
		cp "$installed"/modules.{order,builtin*} "$base"
		cp /build/src/kvm_throttle.ko "$base/updates"
		depmod -b /build/depmod "$2"
	fi
	mkdir /build/modules
	for file in "$base"/modules.* "$base/updates"; do
		cp -a "$file" /build/modules
	done
}

cmd_build()
{
	local lock targets=("$@")

	((${#targets[@]})) || targets=(modules tools selftests)
	cmd_kernel
	exec {lock}>"$build.lock"
	flock "$lock"
	say "building for Debian $variant, kernel $kernel${kernel_name:+ ($kernel_name)}"
	in_root "$root" ro env "${cross[@]}" bash -c "$(declare -f sync_sources index_modules)
		sync_sources
		make -j$(nproc) -C /build/src KDIR=$kernel_base/lib/modules/$kernel/build \\
			EXPORTS=$exports FTRACE=$ftrace \"\$@\"
		index_modules '$kernel_base' $kernel" bash "${targets[@]}" < <(list_sources)
	exec {lock}>&-
}
