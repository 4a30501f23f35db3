# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for kvm-throttle: its options, and the processes with a VM.
# shellcheck shell=bash

_kvm_throttle()
{
	local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}
	local words fd subcommand=${COMP_WORDS[1]}

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
	--prometheus | --qmp | --log)
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return
		;;
	--domain)
		# Nothing is said if libvirt isn't there.
		words=$(virsh --quiet list --name 2>/dev/null)
		;;
	--fd | --vcpu | --period | --for | --from | --interval | --count | --max | \
		--time-limit)
		;;
	*)
		((COMP_CWORD > 1)) || subcommand=
		case $subcommand in
		converge) words='--qmp --domain --pid --max --time-limit --log --quiet' ;;
		stat) words='--pid --interval --count --json --prometheus' ;;
		top) words='--interval' ;;
		record) words='--pid --for' ;;
		plot) words='--pid --from --for' ;;
		*)
			words='--pid --fd --vcpu --period --for --interval --quiet
				--json'
			((COMP_CWORD > 1)) || words+=' converge stat top record plot'
			;;
		esac
		words+=' --help --usage --version'
		if [[ $subcommand == record || $subcommand == plot ]]; then
			mapfile -t COMPREPLY < <(compgen -f -W "$words" -- "$current")
			return
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _kvm_throttle kvm-throttle
