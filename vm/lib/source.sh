# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds a program of Debian's from its source package with patches of ours, inside
# the Debian root of vm/vm, by its compiler. For scripts that set
#
# name     the source package; its messages begin with it
# project  the top of the project
# work     $cache/build/$SUITE/$name, which is /build/$name inside the root

# shellcheck disable=SC2154 # variables of the scripts

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "$*"; exit 1; }

# in_root FUNCTION ARG...: runs a function of the script inside the root.
in_root()
{
	"$project/vm/vm" chroot bash -euo pipefail -c "$(declare -f "$1"); \"\$@\"" bash "$@" </dev/null
}

# Runs inside the root: prepare NAME PACKAGE FILE... Prints the version of the source
# of PACKAGE that the root has, and a key of FILE..., on which the result depends; leaves
# in /build/NAME what the root's package tool knows about sources and their keys.
prepare()
{
	local dir=$1/apt package=$2
	shift 2

	mkdir -p "$dir"/{lists,archives}
	sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$dir/sources.list"
	cp -r /etc/apt/trusted.gpg.d "$dir"
	dpkg-query -W -f '${source:Version} ' "$package"
	cat "$@" | sha256sum | cut -c1-12
}

# download VERSION [OPTION...]: gets the source into $work, once, with this machine's
# package tool, which knows the way out of here. OPTION... are for `apt-get source`.
download()
{
	local version=$1
	shift

	[[ ! -e $work/downloaded || $(<"$work/downloaded") != "$version" ]] || return 0
	say "getting the source package, $version"
	(run_apt "$version" "$@") 2>&1 | sed 's/^/  /' >&2 ||
		die "could not get the source of $name $version"
	echo "$version" >"$work/downloaded"
}

# The part of download that talks to the package tool.
run_apt()
{
	local version=$1 apt options=(
		Dir::Etc::SourceList="$work/apt/sources.list" Dir::Etc::SourceParts=-
		Dir::Etc::TrustedParts="$work/apt/trusted.gpg.d"
		Dir::State::Lists="$work/apt/lists" Dir::Cache="$work/apt"
		APT::Sandbox::User="$(id -un)"
	)
	shift

	apt=(apt-get -q "${options[@]/#/-o}")
	cd "$work" || exit
	rm -f ./*.dsc ./*.tar.*
	"${apt[@]}" update
	"${apt[@]}" source --download-only "$@" "$name=$version" || {
		say "there is no $version any more, so the newest"
		"${apt[@]}" source --download-only "$@" "$name"
	}
}

# step WHAT CMD...: runs CMD with its messages in a log, which is shown if it
# fails. What ninja does is shown on a line of its own, or now and then.
step()
{
	say "$1"
	shift
	"$@" 2>&1 | tee "$work/log" | {
		if [[ -t 2 ]]; then
			awk '/^\[/ { printf "\r\033[K  %.70s", $0; fflush() } END { printf "\r\033[K" }'
		else
			awk '/^\[[0-9]*00\// { print "  " $0; fflush() }'
		fi >&2
	} || {
		tail -n 30 "$work/log" | sed 's/^/  /' >&2
		die "failed, see $work/log"
	}
}
