#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests the kvm-throttle-meter command $1 on VMs of ../check/spin_vm, one throttled
# by the kvm-throttle command, one by cgroup's cpu.max. For root on a machine with
# /dev/kvm where kvm_throttle can be loaded, such as that of vm/vm, deterministic.

vm=
holder=
group=/sys/fs/cgroup/meter_test

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	[ -z "$holder" ] || kill "$holder"
	[ -z "$vm" ] || kill -KILL "$vm"
	wait
	[ ! -d "$group" ] || rmdir "$group"
} 2>/dev/null

tools=$(dirname "$0")/../..
# shellcheck source-path=SCRIPTDIR source=../../check/tap.sh
. "$tools/check/tap.sh"

# guest_percent LOW HIGH [STALLS]: the last run's JSON has vCPU 0 in guest mode for that
# share of the time, and so many stalls at least, and adds up
guest_percent()
{
	python3 -c '
import json, sys
vcpu, = json.load(open(sys.argv[1]))["vcpus"]
low, high, count = map(float, (*sys.argv[2:], 0)[:3])
parts = sum(vcpu[part + "_ns"] for part in
            ("guest", "host", "ready", "blocked", "unseen"))
stalls = vcpu["stalls"]
sys.exit(vcpu["id"] != 0 or parts != vcpu["elapsed_ns"] or
         sum(bar["count"] for bar in stalls["histogram"]) != stalls["count"] or
         not stalls["median_ns"] <= stalls["p99_ns"] <= stalls["longest_ns"] or
         stalls["count"] < count or not low <= vcpu["guest_percent"] <= high)
' "$dir/out" "$@"
}

if [ ! -e /dev/kvm ] || [ "$(id -u)" -ne 0 ]; then
	echo '1..0 # SKIP needs /dev/kvm and root'
	exit 0
fi
modprobe kvm_throttle || exit 1

run
[ "$status" -eq 2 ] && grep -q 'which VM' "$dir/out"
result 'without a process, exit status 2'
expect 0 '^kvm-throttle-meter [0-9]' --version
expect 1 "there is no VM 'none'; this host has" --vm none --for 1s
# shellcheck disable=SC2016 # for bash
bash -c '. "$1"; COMP_WORDS=("$2" --v); COMP_CWORD=1; _kvm_throttle; echo ${COMPREPLY[@]}' \
	bash "$tools/completion/kvm-throttle.bash" "$command" >"$dir/out" 2>&1
[ "$(cat "$dir/out")" = '--vm --version' ]
result 'completion'
for option in $("$command" --help | sed -nE 's/^ +(-., )?(--[a-z-]+).*/\2/p'); do
	echo "the man page lacks $option" >"$dir/out"
	sed 's/\\-/-/g' "$tools/meter/kvm-throttle-meter.8" | grep -qF -e "$option"
	result "the man page has $option"
done
run --pid 1 --for 1y
[ "$status" -eq 2 ] && grep -q "'1y' is not a time" "$dir/out"
result 'with a wrong time, exit status 2'
expect 1 'there is no process 4000000$' --pid 4000000 --for 1s
expect 1 "no thread of process $$ .* entered a guest" --pid $$ --for 100ms
as='setpriv --reuid=65534 --clear-groups'
expect 1 'run as root$' --pid $$ --for 1s
# A container's process has another number here.
as='unshare --pid --fork --mount-proc'
expect 1 'pid namespace' --pid 1 --for 1s
as=

"$tools/check/spin_vm" 1 0 >"$dir/fds" &
vm=$!
while [ ! -s "$dir/fds" ]; do
	sleep 0.1
done
run --pid $vm --for 1s --json
[ "$status" -eq 0 ] && guest_percent 98 100
result 'at full speed, in guest mode'

"$tools/kvm-throttle" --quiet --pid $vm --for 1h 80 >/dev/null &
holder=$!
sleep 1
run --pid $vm --for 1s --json
[ "$status" -eq 0 ] && guest_percent 19 21 90
result 'at 80 %, a fifth of it'
run --pid $vm --for 1s
[ "$status" -eq 0 ] && grep -q '^    0 ' "$dir/out" &&
	grep -q '^ *[0-9.]* [mu]s to .*|##*$' "$dir/out" &&
	grep -q '^The meter itself: [1-9]' "$dir/out"
result 'a table, a picture of the stalls, and the cost'
kill $holder
wait $holder 2>/dev/null
holder=

echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
mkdir $group
echo 20000 100000 >$group/cpu.max
echo $vm >$group/cgroup.procs
run --pid $vm --for 2s --json
# The scheduler gives a slice more than it should, at times.
[ "$status" -eq 0 ] && guest_percent 15 30
result 'throttled by cpu.max to a fifth'
echo $vm >/sys/fs/cgroup/cgroup.procs

"$command" --pid $vm --json >"$dir/out" 2>&1 &
meter=$!
sleep 1
kill -HUP $meter
# Its own start takes some of so short a time.
wait $meter && guest_percent 90 100
result 'SIGHUP: what was measured'

"$command" --pid $vm --for 1h >"$dir/out" 2>&1 &
meter=$!
sleep 1
kill -KILL $vm
wait $vm 2>/dev/null
vm=
wait $meter
[ $? -eq 3 ] && grep -q '^    0 ' "$dir/out"
result 'the VM ends: exit status 3, and what was measured'
finish
