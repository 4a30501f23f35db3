# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for kvm-throttle: its options, and the processes with a VM.
# shellcheck shell=bash

_kvm_throttle()
{
	local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}
	local words fd

	# --option=value comes as three words.
	if [[ $current == = ]]; then
		current=
	elif [[ $option == = ]]; then
		option=${COMP_WORDS[COMP_CWORD-2]}
	fi

	case $option in
	-p | --pid)
		for fd in /proc/[0-9]*/fd/*; do
			[[ $(readlink "$fd") != anon_inode:kvm-vm ]] ||
				words+=" $(cut -d/ -f3 <<<"$fd")"
		done
		;;
	--fd | --vcpu | --period | --for | --interval)
		;;
	*)
		words='--pid --fd --vcpu --period --for --interval --quiet --json
			--status --help --usage'
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _kvm_throttle kvm-throttle
