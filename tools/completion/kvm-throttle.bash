# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for kvm-throttle and kvm-throttle-meter: their subcommands and
# options, which are read from --help, and the processes and names of VMs.
# shellcheck shell=bash

# The processes that have a VM, as far as this user may know.
_kvm_throttle_processes()
{
	local fd

	for fd in /proc/[0-9]*/fd/*; do
		[[ $(readlink "$fd") != anon_inode:kvm-vm ]] || cut -d/ -f3 <<<"$fd"
	done
}

# What their command lines call them; tools/proc.c knows which options do.
_kvm_throttle_names()
{
	local pid

	for pid in $(_kvm_throttle_processes); do
		tr '\0' '\n' <"/proc/$pid/cmdline" |
			sed -nE '/^(-name|--name|--id)$/{n;s/^guest=//;s/,.*//;p;q}'
	done
}

# What --help of a program says, which may be where only root looks for it.
_kvm_throttle_help()
{
	PATH=$PATH:/usr/local/sbin:/usr/sbin "$@" --help 2>/dev/null
}

_kvm_throttle()
{
	local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}
	local words help subcommand=${COMP_WORDS[1]}

	# --option=value comes as three words.
	if [[ $current == = ]]; then
		current=
	elif [[ $option == = ]]; then
		option=${COMP_WORDS[COMP_CWORD-2]}
	fi

	help=$(_kvm_throttle_help "${COMP_WORDS[0]}")
	words=$(sed -nE 's/^  ([a-z]+) .*/\1/p' <<<"$help")
	if ((COMP_CWORD > 1)) && grep -qx -- "$subcommand" <<<"$words"; then
		help=$(_kvm_throttle_help "${COMP_WORDS[0]}" "$subcommand")
	fi
	((COMP_CWORD == 1)) || words=
	COMPREPLY=()

	case $option in
	-p | --pid)
		words=$(_kvm_throttle_processes)
		;;
	--vm)
		words=$(_kvm_throttle_names)
		;;
	--domain)
		# Nothing is said if libvirt isn't there.
		words=$(virsh --quiet list --name 2>/dev/null)
		;;
	*)
		if grep -qE -- "^ +$option=(FILE|SOCKET)" <<<"$help"; then
			mapfile -t COMPREPLY < <(compgen -f -- "$current")
			return
		fi
		# Its argument is nobody's to guess.
		! grep -qE -- "^ +(-., )?$option=" <<<"$help" || return
		words+=" $(sed -nE 's/^ +(-., )?(--[a-z-]+).*/\2/p' <<<"$help")"
		# Subcommands that take files.
		if grep -qE '^Usage: .*(FILE|RECORDING)' <<<"$help"; then
			mapfile -t COMPREPLY < <(compgen -f -W "$words" -- "$current")
			return
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _kvm_throttle kvm-throttle kvm-throttle-meter
