#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests what the kvm-throttle command $1 says to mistakes, and how it exits.
# Needs neither the module nor a VM.

sleeper=

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	[ -z "$sleeper" ] || kill "$sleeper"
}

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

for percent in 100 99.991 80.123 -1. abc '' 1e1; do
	expect 2 'not a percentage from 0 to 99.99' --pid $$ -- "$percent"
done
expect 2 'by how much' --pid $$
expect 2 'which VM' 80
expect 2 'one percentage' --pid $$ 80 90
expect 2 "'0' is not a process id" --pid 0 80
expect 2 "'x' is not a process id" --pid x 80
expect 2 "'99999999999' is not a process id" --pid 99999999999 80
expect 2 "'-1' is not a file descriptor" --pid $$ --fd -1 80
expect 2 "'4294967296' is not a vCPU" --pid $$ --vcpu 4294967296 80
expect 2 "'0.9ms' is not a time from 1ms to 1s" --pid $$ --period 0.9ms 80
expect 2 "'1.1s' is not a time from 1ms to 1s" --pid $$ --period 1.1s 80
expect 2 'from 100ms to 1h' --pid $$ --interval 99ms 80
expect 2 'such as 500ms' --pid $$ --for 0 80
expect 2 'such as 500ms' --pid $$ --for 10days 80
expect 2 'go with a percentage' --status --pid $$ 80
expect 2 'go with --vcpu' --status --pid $$ --vcpu 0
expect 2 'go with --quiet' --status --quiet
run --nonsense
[ $status -eq 2 ]
result 'an unknown option'

# Process ids end at 4194304.
expect 1 'there is no process 4194305' --pid 4194305 80
expect 1 'there is no process 4194305' --pid 4194305 --status
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ 80
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ --fd 0 80
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ --status

# A process whose name a terminal would take for orders.
name=$(printf '\033[31mred')
cp "$(command -v sleep)" "$dir/$name"
"$dir/$name" infinity &
sleeper=$!
until [ "$(cat /proc/$sleeper/comm)" = "$name" ]; do
	sleep 0.1
done
expect 1 "process $sleeper (?\[31mred) has no" --pid $sleeper 80

# Another user's process.
cp "$command" "$dir/kvm-throttle"
command=$dir/kvm-throttle
as=$([ "$(id -u)" -ne 0 ] || echo setpriv --reuid=65534 --clear-groups)
if [ -e /proc/1/fd ] && $as "$command" --usage >"$dir/out" 2>&1; then
	expect 1 'no permission to look into process 1 .* CAP_SYS_PTRACE' \
		--pid 1 80
	expect 1 'no permission to look into process 1 ' --pid 1 --status
	run --status
	[ $status -eq 0 ] && says 'that you may look into'
	result 'not all processes can be looked into'
	run --status --json
	[ $status -eq 0 ] && [ ! -s "$dir/out" ]
	result 'the same in JSON'
else
	echo "# SKIP another user's process: can't be another user here"
fi

# Root that may read the directory, but not what is in it.
as='setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace'
if [ "$(id -u)" -eq 0 ] && $as "$command" --usage >"$dir/out" 2>&1; then
	expect 1 'no permission to look into process 1 ' --pid 1 80
else
	echo "# SKIP root without CAP_SYS_PTRACE: can't be that here"
fi

finish
