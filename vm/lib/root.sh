# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The Debian root of $SUITE, and what is booted for another architecture.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

# packages [FILE]: prints its packages, by default those of the root; the kernel's
# are those of the flavour.
packages()
{
	[[ ${1-} || ! $compiler ]] || echo "$compiler"
	sed -E -e 's/#.*//' -e 's/ //g' \
		-e "s/^(linux-(image|headers))-(a[a-z0-9]*)$/\1-${flavour:+$flavour-}\3/" \
		"${1:-$here/packages}" | grep .
}

root_key()
{
	{
		echo "$suite"
		packages
		declare -f bootstrap fetch_next_kernel finish_root
		[[ ! $inside ]] || declare -f finish_foreign
	} | sha256sum | cut -c1-12
}

bootstrap()
{
	local options=()

	# Not for publication: its release file may be past its date on a mirror.
	[[ $suite != sid ]] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')

	# INITRD=No: no initramfs is made for the kernel; vm/init has its own.
	private env INITRD=No mmdebstrap --mode=root --variant=minbase --format=directory \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/lib/x86_64-linux-gnu/dri/*' \
		--include="$(packages | paste -sd,)" "${options[@]}" \
		--customize-hook="$(declare -f fetch_next_kernel); fetch_next_kernel \"\$1\"" \
		"$suite" "$1"
}

# For the tests of the packages: the headers of another kernel, to be installed
# there as an upgrade would.
fetch_next_kernel()
{
	local headers

	set -e
	headers=$(cd "$1/usr/src" && echo linux-headers-*-amd64)
	headers=${headers%-amd64}
	mkdir "$1/usr/src/next-kernel"
	cd "$1/usr/src/next-kernel"
	APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q download "${headers%-rt}-cloud-amd64"
}

# Runs inside the root: unpacks from the kernel's source what KVM's selftest
# library and the kernel's own checkers need, and makes the user-space headers.
finish_root()
{
	local tar source

	set -euo pipefail
	cd /usr/src
	tar=$(echo linux-source-*.tar.*)
	source=${tar%.tar.*}
	tar -xf "$tar" --no-same-owner \
		--exclude="$source"/{drivers,sound,Documentation,fs,net,crypto,security,samples,rust,ipc} \
		--exclude="$source"/arch/{'[!x]*',xtensa} \
		--exclude="$source"/tools/perf \
		--exclude="$source"/tools/testing/{cxl,kunit,nvdimm,radix-tree}
	ln -s "$source" linux-source
	make -s -C linux-source ARCH=x86_64 headers

	mkdir -p /src /build /out
	rm -rf /boot/initrd.img* /initrd.img* /var/cache/apt/* /var/lib/apt/lists/*
}

# Runs inside the root: what building for another architecture takes.
finish_foreign()
{
	cd /usr/src
	tar -xf linux-source-*.tar.* --no-same-owner "$(readlink linux-source)/arch/arm64/tools"
	mkdir /target
}

explain_failure()
{
	say "could not make the Debian root of $variant:"
	tail -n 25 "$1" | sed 's/^/  /' >&2
	if grep -qE 'NO_PUBKEY|EXPKEYSIG|not signed|Missing key|signing key' "$1"; then
		say "this machine's debian-archive-keyring is too old for $variant:" \
			"install the newest debian-archive-keyring package of Debian stable"
	elif grep -qE 'newuidmap|uid_map|subuid|Operation not permitted' "$1"; then
		say "unprivileged user namespaces with sub-uids are needed:" \
			"see /etc/subuid (usermod --add-subuids), or run this as root"
	fi
	return 1
}

make_root()
{
	local partial=$root.partial log

	log=$(mktemp)
	# shellcheck disable=SC2064 # the names of now
	trap "rm -f '$log'; private rm -rf '$partial'" EXIT
	private rm -rf "$partial"
	say "making the Debian root of $variant (once; about a minute)"
	{ bootstrap "$partial" 2>&1 | tee "$log" | progress; } || explain_failure "$log"
	say "unpacking the kernel's source for $variant"
	in_root "$partial" rw bash -c "$(declare -f finish_root finish_foreign)
		finish_root; [[ ! '$inside' ]] || finish_foreign" >"$log" 2>&1 </dev/null ||
		explain_failure "$log"
	mv "$partial" "$root"
	rm -f "$log"
	trap - EXIT
}

target_key()
{
	{
		echo "$variant"
		packages "$here/packages.$arch"
		declare -f make_target
	} | sha256sum | cut -c1-12
}

# Nothing can be configured in it, as this machine can't run its programs, so
# the packages are just unpacked.  Headers for building modules go in too, with
# the scripts that they need for this machine.
make_target()
{
	local partial=$target.partial log

	log=$(mktemp)
	# shellcheck disable=SC2064 # the names of now
	trap "rm -f '$log'; private rm -rf '$partial'" EXIT
	private rm -rf "$partial"
	say "unpacking what is booted for $variant (once; about a minute)"
	# shellcheck disable=SC2016 # the hook's variables
	{
		private mmdebstrap --mode=root --variant=extract --format=directory \
			--architectures="$arch,amd64" --aptopt='APT::Install-Recommends "false"' \
			--include="?essential?architecture($arch)" \
			--include="$(packages "$here/packages.$arch" | paste -sd,)" \
			--extract-hook='
				set -e
				cd "$1"
				kernel=$(basename lib/modules/*)
				version=${kernel%-'"$arch"'}
				export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
				apt-get -q download "linux-headers-$kernel:'"$arch"'" \
					"linux-headers-$version-common" "linux-kbuild-$version:amd64"
				for package in *.deb; do dpkg-deb -x "$package" .; done
				rm ./*.deb
				sed -i s,/usr/src/,/target/usr/src/, "usr/src/linux-headers-$kernel/Makefile"
				PATH=$PATH:/sbin:/usr/sbin depmod -b . "$kernel"
				ln -s mawk usr/bin/awk
				cp usr/share/base-passwd/passwd.master etc/passwd
				cp usr/share/base-passwd/group.master etc/group
				mkdir out build' \
			"$suite" "$partial" 2>&1 | tee "$log" | progress
	} || explain_failure "$log"
	mv "$partial" "$target"
	rm -f "$log"
	trap - EXIT
}

# Removes roots of this suite that an older package list or script made.
remove_old_roots()
{
	local old

	for old in "$cache/root/$variant"-* "$cache/root/$variant.target"-*; do
		[[ $old != "$root"* && $old != "$booted"* && -d $old ]] || continue
		flock --nonblock "$old" true || continue # in use
		private rm -rf "$old"
		rm -f "$old".initramfs-* "$old".erofs
	done
}

cmd_root()
{
	local lock

	[[ $suite =~ ^[a-z]+$ ]] || die "SUITE must name a Debian suite, not '$suite'"
	[[ -z $flavour || $flavour = rt ]] || die "FLAVOUR must be rt or empty, not '$flavour'"
	[[ -z $kernel_name || -e $here/kernels/$kernel_name.config ]] ||
		die "KERNEL must name one of vm/kernels/*.config, not '$kernel_name'"
	[[ -z $exports || $exports = upstream ]] ||
		die "EXPORTS must be upstream or empty, not '$exports'"
	[[ -z $ftrace || $ftrace = none ]] ||
		die "FTRACE must be none or empty, not '$ftrace'"
	[[ -z $kernel_name || $arch = amd64 ]] || die "KERNEL is for ARCH=amd64 only"
	root=$cache/root/$variant-$(root_key)
	target=
	[[ ! $inside ]] || target=$cache/root/$variant.target-$(target_key)
	booted=${target:-$root}
	mkdir -p "$cache/root" "$build"
	if [[ ! -d $root || ! -d $booted ]]; then
		exec {lock}>"$cache/root/$variant.lock"
		flock --nonblock "$lock" || {
			say "waiting for another vm/vm that makes the root of $variant"
			flock "$lock"
		}
		[[ -d $root ]] || make_root
		[[ -d $booted ]] || make_target
		remove_old_roots
		exec {lock}>&-
	fi
	# Held for as long as anything that this script starts lives.
	exec {root_lock}<"$root" {target_lock}<"$booted"
	flock --shared "$root_lock"
	flock --shared "$target_lock"
}
