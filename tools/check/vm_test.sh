#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests the kvm-throttle command $1 with the module, on VMs of check/spin_vm.
# For root on a machine with /dev/kvm where kvm_throttle can be loaded, such as
# that of vm/vm.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/vm.sh"
name=$(basename "$command" | cut -c 1-15)

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

# No VM, one, and two: `kvm-throttle PERCENT` says from which to choose.
expect 2 'which VM? .*; this host has none$' --for 1s 80
start_vm 1 0 2 7i
modprobe -r kvm_throttle
expect 1 'modprobe kvm_throttle' --pid "$vm" --for 1s 80
# shellcheck disable=SC2016 # what it says
expect 0 'No VM is throttled\. The module is not loaded: `modprobe kvm_throttle`' stat
expect 0 '"module_loaded":false,"complete":true' stat --json
modprobe kvm_throttle || exit 1
expect 2 "which VM? .*; this host has spin_vm (--pid $vm)$" --for 1s 80

expect 1 'no vCPU 1; it has: 0, 2, 7$' \
	--pid "$vm" --for 1s --vcpu 2 --vcpu 1 80
expect 1 'not a KVM virtual machine; choose from: --fd [0-9]*$' \
	--pid "$vm" --for 1s --fd 0 80
expect 0 "spin_vm (process $vm) is not throttled\. The module is loaded\.$" stat --pid "$vm"
expect 0 'No VM is throttled\. The module is loaded\.$' stat
expect 0 '"vm":null,"holder":null,"module_loaded":true,"complete":true' stat --json

run --pid "$vm" --for 2.5s --period 5ms 80
[ $status -eq 0 ] && held_at 0 80 && held_at 2 80 &&
	last '^Done after 2\.[5-9] s; throttled by [0-9.]* % on average.*; 1 of 3 vCPUs idle; full speed now\.$'
result 'a table, and the end after --for'
[ "$(awk '$11 == "idle" && $7 == "5.000" { print $2 }' "$dir/out" | uniq)" = 7 ]
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
	expect 0 'is not throttled' stat --pid "$vm"
done

hold 20
expect 1 "throttled already, by process $holder ($name)" \
	--pid "$vm" --for 1s 80
run stat
[ $status -eq 0 ] && [ "$(wc -l <"$dir/out")" -eq 5 ] &&
	[ "$(awk '$2 ~ /^[0-9]+$/ && $9 > 0 && $9 < 1000 { print $1 }' "$dir/out" | paste -sd ' ')" = '0 2' ] &&
	grep -q "^spin_vm (process $vm): throttled by 20.00 %, by $name (process $holder)$" "$dir/out"
result 'the status of all VMs, with the longest stall of each vCPU'
run stat --pid "$vm" --json
[ $status -eq 0 ] && json "
v['vm']['pid'] == $vm and v['holder']['pid'] == $holder and
v['percent'] == 20 and [c['percent'] for c in v['vcpus']] == [20] * 3 and
v['module_loaded'] and v['complete']"
result 'the status in JSON'
expect 1 'no KVM virtual machine' stat --pid $$
as='setpriv --reuid=65534 --clear-groups'
expect 1 "no permission to look into process $vm (spin_vm)" \
	--pid "$vm" --for 1s 80
as=
end_holder KILL
expect 0 'is not throttled' stat --pid "$vm"

# A rate, alone and with a percentage.  Nothing logs what this VM dirties.
# shellcheck disable=SC2317 # wait_for() calls it
limited()
{
	"$command" stat | grep -q 'dirtied pages/s'
}
hold --dirty-rate 8MiB/s
wait_for limited
run stat
[ $status -eq 0 ] && grep -q "^spin_vm (process $vm): throttled to 2048 dirtied pages/s, by $name (process $holder)$" "$dir/out" &&
	grep -q "^0 pages dirtied; .*; KVM doesn't log what is dirtied, so nothing is limited now$" "$dir/out"
result 'a rate, in the status'
run stat --json
[ $status -eq 0 ] && json "
v['percent'] == 0 and v['dirty_rate'] == 2048 and v['logged_pages'] == 0 and
[c['dirty_rate'] for c in v['vcpus']] == [2048] * 3 and
[c['dirty_sleeps'] for c in v['vcpus']] == [0] * 3"
result 'and in JSON'
end_holder INT
hold --dirty-rate 3000 50
wait_for limited
run stat
[ $status -eq 0 ] && grep -q ": throttled by 50.00 % and to 3000 dirtied pages/s, by " "$dir/out"
result 'with a percentage'
end_holder INT
run --pid "$vm" --for 500ms --vcpu 2 --dirty-rate 2000
[ $status -eq 0 ] && grep -q "^Throttling vCPU 2 of .* to 2000 dirtied pages/s; Ctrl-C ends it early\.$" "$dir/out" &&
	grep -q "KVM doesn't log what the VM dirties" "$dir/out"
result 'of one vCPU, and that it limits nothing yet'

# By name: one, one of two, none of that name, two of the same name.
"$spin_vm" 1 0i -name guest=web,debug-threads=on >"$dir/fds2" &
named=$!
wait_for test -s "$dir/fds2"
expect 2 "which VM? .*; this host has .*spin_vm (--pid $named, --vm web)" --for 1s 80
expect 0 '^Done' --vm web --quiet --for 200ms 80
expect 0 "spin_vm (process $named) is not throttled" stat --vm web
expect 1 "there is no VM 'we'; this host has .*--vm web" --vm we --for 200ms 80
as='setpriv --reuid=65534 --clear-groups'
expect 1 "no permission to look into process $named (spin_vm): run as root" --vm web --for 1s 80
as=
"$spin_vm" 1 0i -name web >"$dir/fds3" &
twin=$!
wait_for test -s "$dir/fds3"
expect 1 "2 processes have a VM that is called 'web': give one with --pid: [0-9]*, [0-9]*$" \
	--vm web --for 1s 80
kill -KILL $named $twin
wait $named $twin 2>/dev/null

# Names with commas, which QEMU has doubled, very long ones, and others.
long=$(printf 'n%.0s' $(seq 300))
while IFS='|' read -r options called; do
	rm -f "$dir/fds2"
	"$spin_vm" 1 0i "${options%% *}" "${options#* }" >"$dir/fds2" &
	named=$!
	wait_for test -s "$dir/fds2"
	expect 0 '^Done' --vm "$called" --quiet --for 100ms 80
	kill -KILL $named
	wait $named 2>/dev/null
done <<NAMES
-name guest=a,,b=1,,,debug-threads=on|a,b=1,
-name debug-threads=on,guest=web|web
-name ,,,|,
--name a,b|a
--name guest=$long|$long
-name guest=wéb [1]|wéb [1]
NAMES

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

# --- a VM that is made anew, as some VMMs do it on a reboot -------------------------

start_vm 1 0
hold --quiet 50
for reboots in 1 2; do
	kill -USR1 "$vm"
	wait_for sh -c "[ \$(wc -l <'$dir/fds') -gt $reboots ]"
	wait_for grep -q "VM of process $vm (spin_vm) was made anew, and is throttled again" "$dir/held"
	result 'a VM that is made anew: it is said'
	wait_for throttled
	result 'and it is throttled'
	: >"$dir/held"
done
run stat --pid "$vm"
[ $status -eq 0 ] && grep -q "throttled by 50.00 %, by $name (process $holder)" "$dir/out"
result 'by the same'
end_holder INT
end_vm

# --- namespaces ---------------------------------------------------------------------

# A VM in a container, whose processes have other ids there.
unshare --pid --mount-proc --net --ipc --uts --kill-child "$spin_vm" 1 0 -name boxed >"$dir/fds" &
boxed=$!
wait_for test -s "$dir/fds"
vm=$(pgrep -P $boxed)
expect 0 "spin_vm (process $vm) is not throttled" stat --vm boxed
hold --quiet 50
run stat --vm boxed
[ $status -eq 0 ] && grep -q "^spin_vm (process $vm, VM boxed): throttled by 50.00 %, by $name (process $holder)$" "$dir/out"
result 'a VM in a container is throttled from outside'
end_holder TERM
# Who throttles it is in that container, too.
nsenter --target "$vm" --pid --mount -- "$(realpath "$command")" --pid 1 --quiet --for 10m 20 >"$dir/held" 2>&1 &
holder=$!
wait_for throttled
run stat
[ $status -eq 0 ] && grep -q "^spin_vm (process $vm, VM boxed): throttled by 20.00 %, by $name (process $(pgrep -P $holder))$" "$dir/out"
result 'a VM in a container is throttled from inside, and stat says by whom'
expect 1 "throttled already, by process $(pgrep -P $holder) ($name)" --vm boxed --for 1s 80
nsenter --target "$vm" --pid --mount -- "$(realpath "$command")" stat >"$dir/out" 2>&1
grep -q "^spin_vm (process 1, VM boxed): throttled by 20.00 %, by $name (process [0-9]*)$" "$dir/out"
result 'in the container, stat has the ids of the container'
kill -KILL "$boxed"
wait "$boxed" 2>/dev/null
vm=
end_holder KILL

# --- on a terminal, here one that has room for five lines ------------------------------
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
