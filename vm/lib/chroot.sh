# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Running commands inside a Debian root, on this machine's kernel, with mounts
# and processes of their own.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

# Makes an ordinary user root over files of its own and of its sub-uids.
user_namespace=()
((EUID == 0)) || user_namespace=(unshare --user --map-root-user --map-auto)

# Runs a command with mounts and processes of its own: nothing stays mounted
# and no process stays behind, however it ends.
private()
{
	"${user_namespace[@]}" unshare --mount --pid --fork --kill-child=KILL -- "$@"
}

# Binds $1 to $2 read-only, keeping the flags that a user namespace may not drop.
bind_readonly()
{
	local flags

	mount --bind "$1" "$2"
	flags=$(findmnt -n -o VFS-OPTIONS --mountpoint "$2" | tail -n 1)
	mount -o "remount,bind,ro,${flags#r[ow],}" "$2"
}

# The part of in_root that runs in the new namespaces.
enter_root()
{
	local root=$1 mode=$2 build=$3 target=$4 name status=0
	shift 4

	if [[ $mode = ro ]]; then
		bind_readonly "$root" "$root"
		mount --bind "$build" "$root/build"
		bind_readonly "$project" "$root/src"
		[[ ! $target ]] || bind_readonly "$target" "$root/target"
		mount -t tmpfs tmpfs "$root/run"
	else
		mount --bind "$root" "$root"
	fi
	# Where /proc is partly hidden (in containers), the kernel allows no new one.
	mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	mkdir "$root/dev/pts" "$root/dev/shm"
	for name in null zero full random urandom tty; do
		: >"$root/dev/$name"
		mount --bind "/dev/$name" "$root/dev/$name"
	done
	mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	# A child, not exec: as process 1 it could not be interrupted.
	env -i HOME=/tmp LANG=C.UTF-8 TERM="${TERM:-dumb}" \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		chroot "$root" bash -c '[[ ! -d /src/vm ]] || cd /build; exec -- "$@"' bash "$@" || status=$?
	exit $status
}

# in_root ROOT ro|rw CMD...: in ROOT; rw is for making it, without the project.
in_root()
{
	local dir=$1 mode=$2
	shift 2

	private bash "$here/vm" _enter "$dir" "$mode" "$build" "${target-}" "$@"
}

cmd_chroot()
{
	[[ ${1-} != -- ]] || shift
	(($#)) || die "chroot: no command; see vm/vm --help"
	cmd_root
	in_root "$root" ro "$@"
}
