#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests the kvm-throttle command $1 with the module, on VMs of check/spin_vm.
# For root on a machine with /dev/kvm where kvm_throttle can be loaded, such as
# that of vm/vm.

vm=
holder=

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	end_holder KILL
	end_vm
}

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"
spin_vm=$(dirname "$0")/spin_vm
name=$(basename "$command" | cut -c 1-15)

# start_vm ARGUMENT...: of spin_vm; its process comes to $vm, its fds to $fds
start_vm()
{
	"$spin_vm" "$@" >"$dir/fds" &
	vm=$!
	wait_for test -s "$dir/fds"
	fds=$(cat "$dir/fds")
}

end_vm()
{
	[ -z "$vm" ] || kill -KILL "$vm"
	wait $vm 2>/dev/null
	vm=
}

# hold ARGUMENT...: a throttle of $vm in the background, for a minute at most;
# what it prints comes to $dir/held
hold()
{
	# A shell that is not interactive has ^C ignored in the background.
	env --default-signal=INT "$command" --pid "$vm" --for 1m "$@" \
		</dev/null >"$dir/held" 2>&1 &
	holder=$!
	wait_for throttled
}

# end_holder SIGNAL: 0 only waits; its exit status comes to $status
end_holder()
{
	[ -n "$holder" ] || return
	kill -"$1" $holder 2>/dev/null
	wait $holder 2>/dev/null
	status=$?
	holder=
	cp "$dir/held" "$dir/out"
}

throttled()
{
	"$command" --status --pid "$vm" | grep -q throttled.by
}

# wait_for CONDITION...: at most 10 seconds
wait_for()
{
	for _ in $(seq 100); do
		"$@" && return
		sleep 0.1
	done
	return 1
}

# held_at ID PERCENT: the last table in $dir/out has that vCPU's mean at PERCENT
# to within 1
held_at()
{
	awk -v id="$1" -v percent="$2" '
		/^ seconds/ { table = NR }
		table && $2 == id { mean = $6 }
		END { exit !(mean >= percent - 1 && mean <= percent + 1) }
	' "$dir/out"
}

# last PATTERN: the last line of the last run
last()
{
	tail -n 1 "$dir/out" | grep -q "$1"
}

# json EXPRESSION: is true of each line of the last run, the object v
json()
{
	python3 -c '
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
sys.exit(not lines or not all(eval("(" + sys.argv[2] + ")") for v in lines))
' "$dir/out" "$1"
}

if [ ! -e /dev/kvm ] || [ "$(id -u)" -ne 0 ]; then
	echo '1..0 # SKIP needs /dev/kvm and root'
	exit 0
fi

start_vm 1 0 2 7i
if [ ! -e /dev/kvm_throttle ]; then
	expect 1 'modprobe kvm_throttle' --pid "$vm" --for 1s 80
	modprobe kvm_throttle || exit 1
fi

expect 1 'no vCPU 1; it has: 0, 2, 7$' \
	--pid "$vm" --for 1s --vcpu 2 --vcpu 1 80
expect 1 'not a KVM virtual machine; choose from: --fd [0-9]*$' \
	--pid "$vm" --for 1s --fd 0 80
expect 0 "spin_vm (process $vm) is not throttled\.$" --pid "$vm" --status
expect 0 'No VM is throttled\.$' --status

run --pid "$vm" --for 2.5s --period 5ms 80
[ $status -eq 0 ] && held_at 0 80 && held_at 2 80 &&
	last '^Done after 2\.[5-9] s; throttled by [0-9.]* % on average.*; 1 of 3 vCPUs idle; full speed now\.$'
result 'a table, and the end after --for'
[ "$(awk '$10 == "idle" && $7 == "5.000" { print $2 }' "$dir/out" | uniq)" = 7 ]
result 'the idle vCPU is called idle, the others are not'

expect 0 '^Done after .* on average.*; full speed now\.$' \
	--pid "$vm" --for 1500ms --quiet 80%

run --pid "$vm" --for 2.5 --json --vcpu 7 --vcpu 0 33.33
[ $status -eq 0 ] && [ "$(wc -l <"$dir/out")" -ge 2 ] && json "
v['vm'] == {'pid': $vm, 'command': 'spin_vm'} and
v['holder']['command'] == '$name' and
[c['id'] for c in v['vcpus']] == [0, 2, 7] and
[c['percent'] for c in v['vcpus']] == [33.33, 0, 33.33] and
[c['own'] for c in v['vcpus']] == [True, False, True] and
abs(v['vcpus'][0]['interval_percent'] - 33.33) < 2 and
abs(v['average_percent'] - 33.33) < 2 and
v['vcpus'][1]['average_percent'] is None and
v.get('end') == ('time' if v is lines[-1] else None)"
result 'JSON lines, two vCPUs'

expect 0 '"end":"time"' --pid "$vm" --for 1100ms --json --quiet 50

for signal in INT TERM HUP; do
	hold --interval 500ms 90
	end_holder $signal
	[ $status -eq 0 ] && last '^Interrupted after .*; full speed now\.$'
	result "ended by SIG$signal"
	expect 0 'is not throttled' --pid "$vm" --status
done

hold 20
expect 1 "throttled already, by process $holder ($name)" \
	--pid "$vm" --for 1s 80
run --status
[ $status -eq 0 ] && [ "$(wc -l <"$dir/out")" -eq 5 ] &&
	grep -q "^spin_vm (process $vm): throttled by 20.00 %, by $name (process $holder)$" "$dir/out"
result 'the status of all VMs'
run --status --pid "$vm" --json
[ $status -eq 0 ] && json "
v['vm']['pid'] == $vm and v['holder']['pid'] == $holder and
v['percent'] == 20 and [c['percent'] for c in v['vcpus']] == [20] * 3"
result 'the status in JSON'
expect 1 'no KVM virtual machine' --status --pid $$
as='setpriv --reuid=65534 --clear-groups'
expect 1 "no permission to look into process $vm (spin_vm)" \
	--pid "$vm" --for 1s 80
as=
end_holder KILL
expect 0 'is not throttled' --pid "$vm" --status

trap '' HUP
hold --quiet 20
trap - HUP
kill -HUP $holder
sleep 1
throttled
result 'a signal that nohup had ignored'

end_vm
end_holder 0
[ $status -eq 3 ] && last '^The VM ended after [0-9.]* s; throttled by [0-9.]* % on average'
result 'the VM ended'

start_vm 2 0 1i
expect 1 "has 2 KVM virtual machines; choose one: --fd ${fds%% *}, --fd [0-9]*$" \
	--pid "$vm" --for 1s 80
for fd in $fds; do
	expect 0 '^Done' --pid "$vm" --fd "$fd" --quiet --for 200ms 80
done
hold --fd "${fds%% *}" 20
expect 0 '^Done' --pid "$vm" --fd "${fds##* }" --quiet --for 200ms 80
end_holder TERM
end_vm

# On a terminal, here one that has room for five lines.
# shellcheck disable=SC2046 # several numbers
start_vm 1 0 $(seq -f %gi 1 15)
for no_color in '' 1; do
	TERM=xterm NO_COLOR=$no_color script -qec \
		"stty rows 6 cols 80; $command --pid $vm --for 3.5s 50" \
		/dev/null </dev/null >"$dir/out"
	drawn=$(grep -c '^16 vCPUs, 15 idle; min/all/max now [0-9]' "$dir/out")
	[ "$drawn" -ge 2 ] &&
		[ "$(grep -c 'and 14 more' "$dir/out")" -eq "$drawn" ] &&
		grep -qF "$(tput -T xterm cuu1; tput -T xterm cuu1)" "$dir/out" &&
		last '^.*Done'
	result "a small terminal${no_color:+, NO_COLOR}"
	coloured=$(grep -cF "$(tput -T xterm setaf 4)" "$dir/out")
	[ "$coloured" -eq "$([ "$no_color" ] && echo 0 || echo "$drawn")" ]
	result "colours: $coloured times of $drawn"
done

finish
