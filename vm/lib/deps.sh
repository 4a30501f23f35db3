# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What this machine needs to have installed, and what vm/vm says to its user.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Shows a long job's messages: the newest on a live line, or all.
progress()
{
	local line

	if [[ -t 2 ]]; then
		while IFS= read -r line; do
			printf '\r\033[K  %.70s' "$line" >&2
		done
		printf '\r\033[K' >&2
	else
		sed 's/^/  /' >&2
	fi
}

# Prints "package: what for" for each thing that is missing.
missing_packages()
{
	local test package why

	while IFS='|' read -r test package why; do
		case $test in
		'') ;;
		/*) compgen -G "$test" >/dev/null ;;
		*) PATH=$PATH:/usr/sbin:/sbin command -v "$test" >/dev/null ;;
		esac || printf '%s: %s\n' "$package" "$why"
	done <<-LIST
	mmdebstrap|mmdebstrap|makes the Debian root
	/usr/share/keyrings/debian-archive-keyring.*|debian-archive-keyring|verifies Debian's packages
	flock|util-linux|keeps concurrent runs apart
	unshare|util-linux|private mounts
	setpriv|util-linux|ends QEMU with this script
	$([[ $arch = amd64 ]] || echo 'depmod|kmod|indexes the modules of another architecture')
	$( ((EUID == 0)) || echo 'newuidmap|uidmap|makes the root without being root')
	LIST
}

cmd_deps()
{
	local list packages sudo=()

	list=$(missing_packages)
	[[ $list ]] || return 0

	say "this machine lacks (package: what for):"
	printf '%s\n' "$list" >&2
	mapfile -t packages < <(cut -d: -f1 <<<"$list" | sort -u)
	command -v apt-get >/dev/null ||
		die "no apt-get here; install them by hand: ${packages[*]}"
	((EUID == 0)) || sudo=(sudo)
	say "installing: ${packages[*]}"
	"${sudo[@]}" apt-get -q update </dev/null >&2 ||
		say "apt-get update failed; trying with the lists at hand"
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y install --no-install-recommends "${packages[@]}" </dev/null >&2 ||
		die "could not install: ${packages[*]}"
}
