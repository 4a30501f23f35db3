#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests the subcommand converge of the kvm-throttle command $1 with the module: a
# VM of check/spin_vm, whose monitor and migrations are check/fake_qmp's.  For root
# on a machine with /dev/kvm where kvm_throttle can be loaded, such as that of
# vm/vm.  Real migrations are bench/converge's.
#
# Runs whose command lines are long are judged by $?, and wait_for calls some of
# the functions.
# shellcheck disable=SC2181,SC2317

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/vm.sh"
here=$(dirname "$0")
qmp=$dir/qmp
fake=

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	end_holder KILL
	end_fake
	end_vm
}

modprobe kvm_throttle || exit 1
start_vm 1 0i

# fake ARGUMENT...: of fake_qmp, at $qmp
fake()
{
	end_fake
	rm -f "$qmp"
	"$here/fake_qmp" "$@" 2>"$dir/fake" &
	fake=$!
	wait_for test -S "$qmp"
}

end_fake()
{
	[ -n "$fake" ] || return
	kill "$fake" 2>/dev/null
	wait "$fake" 2>/dev/null
	fake=
}

# begin ARGUMENT...: converge in the background; what it prints comes to $dir/held,
# its log to $dir/log
begin()
{
	rm -f "$dir/log"
	env --default-signal=INT "$command" converge --qmp "$qmp" --pid "$vm" \
		--log "$dir/log" "$@" </dev/null >"$dir/held" 2>&1 &
	holder=$!
}

# percent PATTERN: is in force
percent()
{
	"$command" stat --json --pid "$vm" | grep -q "\"percent\":$1,"
}

not_throttled()
{
	! percent '[1-9][0-9.]*'
}

# logged EXPRESSION: is true of the log's lines, a list
logged()
{
	python3 -c '
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
def of(event):
    return [line for line in lines if line["event"] == event]
sys.exit(not eval("(" + sys.argv[2] + ")"))
' "$dir/log" "$1" 2>>"$dir/out"
}

# ends STATUS PATTERN: it exits so, says that at its end, and lets go
ends()
{
	end_holder 0
	[ "$status" -eq "$1" ] && last "$2" && ! throttled
}

# --- every way that a migration ends ------------------------------------------

while read -r state want says; do
	fake "$qmp" none:3 setup:2 active:80 "$state"
	begin
	wait_for percent '99.00'
	result "$state: throttled before"
	ends "$want" "$says"
	result "$state: ends with $want, at full speed"
	logged "[line['event'] for line in lines].count('end') == 1 and
lines[0]['event'] == 'start' and lines[0]['vm']['pid'] == $vm and
lines[0]['max_percent'] == 99 and not lines[0]['auto_converge'] and
lines[-1]['highest_percent'] == 99 and 5 < lines[-1]['lost_s'] < 20 and
{line['reason'] for line in of('iteration')} - {'useless'} == {'watching', 'converges', 'stuck'}"
	result "$state: the log"
done <<'STATES'
completed 0 has completed after 20.0 s; the guest was throttled by up to 99.00 %, and lost
postcopy-active 0 in postcopy after
postcopy-paused 0 in postcopy after
postcopy-recover-setup 0 in postcopy after
postcopy-recover 0 in postcopy after
colo 0 in postcopy after
failed 4 has failed after 20.0 s: the other side is gone; the guest
cancelled 4 was cancelled after
postcopy-device 0 in postcopy after
close 6 monitor can't be reached any more after
STATES

for state in cancelling pre-switchover device; do
	fake "$qmp" active:50 "$state:40" completed
	begin
	wait_for percent 99.00
	result "$state: throttled before"
	wait_for not_throttled && kill -0 "$holder"
	result "$state: lets go while it waits"
	ends 0 'has completed'
	result "$state: then it ends"
done

fake "$qmp" active:50 levitating:40 completed
begin
wait_for percent 99.00
wait_for not_throttled && kill -0 "$holder"
result 'a state that nobody knows: lets go while it waits'
ends 0 'has completed'
result 'a state that nobody knows: then it ends'

# --- what was before ---------------------------------------------------------

while read -r name states; do
	# shellcheck disable=SC2086 # several
	fake "$qmp" $states
	begin
	wait_for percent 99.00
	result "$name: throttled"
	ends 0 'has completed'
	result "$name: ends"
done <<'STATES'
an-earlier-one completed:5 active:50 completed
one-that-came-here incoming:3 arrived:5 active:50 completed
several failed:2 setup active:50 device:2 completed
STATES

while read -r want says states; do
	# shellcheck disable=SC2086
	fake "$qmp" $states
	begin
	ends "$want" "$says" && grep -q 'the guest was not throttled' "$dir/out"
	result "setup that fails: $states"
done <<'STATES'
4 failed none setup failed
4 failed none:2 failed
4 failed completed:3 setup:2 failed
4 cancelled none setup cancelled
STATES

fake "$qmp" active:50 device:3 close
begin
wait_for percent 99.00
ends 0 'has completed'
result 'its monitor is closed after device'

fake "$qmp" active:50 device
begin
wait_for percent 99.00
wait_for not_throttled
end_vm
ends 0 'has completed'
result 'the source is gone after device'
start_vm 1 0i

fake --long 100000 --pieces 10007 "$qmp" active:50 completed
begin
wait_for percent 99.00
ends 0 'has completed'
result 'answers in pieces, with strange fields'

# --- what nobody may wait for ---------------------------------------------------

mkfifo "$dir/fifo"
# What is never read; 64 KiB are in it.
exec 9<>"$dir/fifo"
head -c 65536 /dev/zero >&9

# on_time MS COMMAND...: it ends within so much
on_time()
{
	limit=$1
	shift
	from=$(date +%s%N)
	"$@"
	[ $((($(date +%s%N) - from) / 1000000)) -le "$limit" ]
}

for output in "$dir/fifo" /dev/full; do
	on_time 1600 "$command" --pid "$vm" --for 1s --interval 100ms --json 20 >"$output" 2>"$dir/out" </dev/null
	result "--for ends on time: $output"
	! throttled
	result 'and lets go'
done
for what in completed cancelled TERM; do
	case $what in
	TERM) fake "$qmp" active ;;
	*) fake "$qmp" active:50 "$what" ;;
	esac
	# shellcheck disable=SC2094 # nobody reads it
	"$command" converge --qmp "$qmp" --pid "$vm" --log "$dir/fifo" </dev/null >"$dir/fifo" 2>&1 &
	holder=$!
	wait_for percent 99.00
	[ $what != TERM ] || kill "$holder"
	on_time 8000 wait "$holder"
	result "a full pipe for output and log: $what"
	! throttled
	result 'and lets go'
	holder=
done
"$command" stat --interval 100ms </dev/null >"$dir/fifo" 2>&1 &
sleep 1
kill $!
on_time 1000 wait $!
result 'a full pipe: stat ends'
exec 9>&-

fake "$qmp" active:50 completed
begin --log /dev/full
wait_for percent 99.00
end_holder 0
[ "$status" -eq 1 ] && grep -q '/dev/full: No space left' "$dir/out" && grep -q 'has completed' "$dir/out"
result 'a log that fails is told, and changes nothing'

for signal in INT TERM HUP KILL; do
	fake "$qmp" active
	begin
	wait_for percent 99.00
	end_holder $signal
	if [ $signal = KILL ]; then
		[ "$status" -eq 137 ] && ! throttled
	else
		[ "$status" -eq 0 ] && last '^Interrupted after .* by up to 99.00 %' && ! throttled
	fi
	result "SIG$signal: at full speed"
done

fake "$qmp" active:50 hang
begin
wait_for percent 99.00
sleep 4
end_holder TERM
[ "$status" -eq 0 ] && last '^Interrupted' && ! throttled
result 'a signal while QEMU does not answer'

fake "$qmp" active
begin
wait_for percent 99.00
end_vm
ends 3 'QEMU has ended'
result 'QEMU is killed'
start_vm 1 0i

# --- what it does meanwhile ------------------------------------------------------

fake --dirty 20 "$qmp" active:20 completed
begin
ends 0 'the guest was not throttled'
result 'what converges by itself is not throttled'

fake "$qmp" cancelled:3 active:40 completed
begin --max 50.5
wait_for percent 50.50
result '--max'
ends 0 'up to 50.50 %'
result 'one that was cancelled before is not taken for this one'

fake --auto-converge "$qmp" active:5 completed
begin
ends 0 'not throttled' && grep -q 'own auto-converge is on' "$dir/out" &&
	logged "lines[0]['auto_converge']"
result 'auto-converge is on'

fake "$qmp" active:40 completed
begin --time-limit 5s
ends 5 'time limit of 5 s was not kept' && grep -q "limit of 5 s can't be kept" "$dir/out" &&
	logged "of('late')[0]['migration_s'] < 4"
result 'a time limit that is too short'

fake --dirty 20 "$qmp" active:20 completed
begin --time-limit 60s
ends 0 'has completed' && ! grep -q 'time limit' "$dir/out"
result 'one that is long enough'

fake --memory 2000 --probe 500 --probe-mode dirty-ring "$qmp" active:90 completed
begin
ends 0 'has completed' && logged "
{line['dirtied'] for line in of('probe') if not line['error']} == {150 << 20} and
{line['seconds'] for line in of('probe')} == {0.3} and 'not enabled' in of('probe')[0]['error']"
result 'probes, of a QEMU with a dirty ring'

fake "$qmp" active:50 completed
begin --quiet
ends 0 'has completed' && [ "$(wc -l <"$dir/out")" -eq 1 ]
result '--quiet says one line'

fake "$qmp" active:50 completed
run_screen='s left\|no end in sight\|end unknown'
NO_COLOR=1 TERM=xterm "$here/on_terminal" 24x120 -- "$command" converge --qmp "$qmp" --pid "$vm" >"$dir/out" 2>&1
[ $? -eq 0 ] && grep -q '\[#*-*\] .*; iteration' "$dir/out" && grep -q "$run_screen" "$dir/out" &&
	grep -q 'throttled by 99.00 %' "$dir/out"
result 'a bar on a terminal'

# --- by the rate at which memory is dirtied ---------------------------------------------

end_vm
start_vm 1 0w 1i -log "$dir/pages"

# rate PATTERN: is in force
rate()
{
	"$command" stat --json --pid "$vm" | grep -q "\"dirty_rate\":$1,\"logged"
}

# What is true of the log of a migration that ends by a rate.
by_rate="[line['percent'] for line in of('iteration')] == [0] * len(of('iteration')) and
of('iteration')[0]['rate_limit'] is None and of('iteration')[-1]['rate_limit'] and
lines[-1]['highest_percent'] == 0 and lines[-1]['lost_s'] > 0.1 and
lines[-1]['lowest_rate_limit'] == min(line['rate_limit'] for line in of('iteration') if line['rate_limit'])"

# What was promised holds, but for a portion, in which QEMU looks.  On a CPU with PML the vCPU may
# dirty all that it writes to at once, twice: two iterations more.
slack=0.15
[ "$(cat /sys/module/kvm_intel/parameters/pml 2>/dev/null)" != Y ] || slack=1.2
promised="[line for line in of('iteration') if line['promised']] and
all(lines[-1]['migration_s'] + 0.3 <= line['migration_s'] + line['left_s'] + $slack
    for line in of('iteration') if line['promised']) and
not [line for line in of('iteration') if line['promised'] and not line['rate_limit']]"

fake --log "$dir/pages" --memory 4 "$qmp" active completed
begin
wait_for rate '[1-9][0-9]*'
result 'a rate is in force'
ends 0 'has completed after .* throttled to [1-9][0-9]* dirtied pages/s, and lost' &&
	grep -q 'If it must be throttled, its writes to memory are limited' "$dir/out" &&
	grep -q 'ends in [1-9]* s; throttled to [1-9][0-9]* dirtied' "$dir/out"
result 'the migration ends by it, and it is let go of'
logged "$by_rate"
result 'by a rate alone'
logged "$promised"
result 'when it was promised to'

fake --log "$dir/pages" --memory 4 "$qmp" active completed
begin --by percent
wait_for percent '[1-9][0-9.]*' && ! rate '[1-9][0-9]*'
result '--by percent'
end_holder TERM
! grep -q dirtied.pages "$dir/out" && logged "not of('end')[0]['lowest_rate_limit'] and of('end')[0]['highest_percent']"
result '--by percent: by that alone'

for state in cancelled failed postcopy-active close; do
	fake --log "$dir/pages" --memory 4 "$qmp" active "$state"
	begin
	wait_for rate '[1-9][0-9]*'
	end_holder 0
	! throttled && grep -q 'throttled to [1-9]' "$dir/out"
	result "$state: the rate is let go of"
done
for state in cancelling pre-switchover device hang levitating; do
	fake --log "$dir/pages" --memory 4 "$qmp" active "$state"
	begin
	wait_for rate '[1-9][0-9]*'
	wait_for rate 0 && kill -0 "$holder"
	result "$state: the rate is let go of while it waits"
	end_holder TERM
done
fake --log "$dir/pages" --memory 4 --others 2 "$qmp" active completed
begin
wait_for rate '[1-9][0-9]*'
for signal in TERM KILL; do
	end_holder $signal
	! throttled
	result "SIG$signal: the rate is let go of"
	begin
	wait_for rate '[1-9][0-9]*'
done
end_holder TERM

# What devices dirty: 2 MiB in each iteration.
fake --log "$dir/pages" --memory 4 --others 2 "$qmp" active completed
begin
wait_for rate '[1-9][0-9]*'
wait_for percent '[1-9][0-9.]*' && rate 0
result 'what others dirty: a percentage takes the place of the rate'
end_holder TERM
grep -q "isn't dirtied by vCPUs .* Throttled by a percentage from now on" "$dir/out" && logged "len(of('futile')) == 1"
result 'which is said'
fake --log "$dir/pages" --memory 4 --others 2 "$qmp" active completed
begin --by rate
wait_for rate '[1-9][0-9]*'
wait_for rate 0 && not_throttled
result '--by rate: nothing takes its place'
end_holder TERM
grep -q "isn't dirtied by vCPUs .* Full speed again" "$dir/out"
result '--by rate: which is said'

# Where it can't be had.
# What sees dirtied pages stays for a second after a limit, and needs it.
wait_for sysctl -q kernel.ftrace_enabled=0 2>/dev/null
fake --log "$dir/pages" --memory 4 "$qmp" active completed
begin
wait_for percent '[1-9][0-9.]*'
result 'without ftrace: a percentage'
end_holder TERM
last 'throttled by up to' && grep -q "its writes can't be limited: ftrace is turned off" "$dir/out"
result 'without ftrace: it is said'
fake --log "$dir/pages" --memory 4 "$qmp" active
begin --by rate
wait_for grep -q "^It isn't throttled: ftrace is turned off" "$dir/held"
result '--by rate without ftrace: it is said'
sleep 8
not_throttled && rate 0
result '--by rate without ftrace: not throttled'
end_holder TERM
sysctl -q kernel.ftrace_enabled=1
fake --log "$dir/pages" --memory 4 "$qmp" active completed
LD_PRELOAD=$here/old_module.so begin
wait_for percent '[1-9][0-9.]*'
end_holder TERM
last 'throttled by up to' && grep -q "its writes can't be limited: the module that is loaded is older than this command" "$dir/out"
result 'an older module: a percentage, which is said'
end_vm
start_vm 1 0i
fake "$qmp" active:50 completed
begin
wait_for percent 99.00
ends 0 'has completed' && grep -q "its writes can't be limited: KVM doesn't log what it dirties" "$dir/out"
result 'where nothing is logged: a percentage, which is said'

# --- somebody else throttles ----------------------------------------------------------

fake "$qmp" active
hold 10
expect 1 'is throttled already' converge --qmp "$qmp" --pid "$vm"
end_holder TERM

# --- all VMs of this host ---------------------------------------------------------------

end_fake
end_vm
mkdir "$dir/vms"
printf '%s\n' 'libvirt = none' "sockets = $dir/vms" "prometheus = $dir/vms.prom" 'max = 60' \
	'[other]' 'max = 10' '[writer]' 'by = rate' '[quiet]' 'throttle = off' >"$dir/rules"

# fake_with_vm SECONDS ARGUMENT...: the VM's process, $spin_arguments, was handed its
# monitor's socket by fake_qmp, so long before it makes the VM
spin_arguments='1 0i'
fake_with_vm()
{
	wait="sleep $1"
	shift
	rm -f "$dir/vm" "$dir/fds" "$dir/vms/web"
	"$here/fake_qmp" --after 1 --run "$wait; echo \$\$ >$dir/vm; exec $spin_vm $spin_arguments" \
		"$@" >"$dir/fds" 2>"$dir/fake" &
	fake=$!
	wait_for test -s "$dir/fds"
	vm=$(cat "$dir/vm")
}

said()
{
	grep -q -- "$1" "$dir/held"
}

fake_with_vm 0 "$dir/vms/quiet" silent
quiet="$fake $vm"
env --default-signal=INT "$command" converge --all --config "$dir/rules" \
	</dev/null >"$dir/held" 2>&1 &
holder=$!
fake_with_vm 2 "$dir/vms/web" none active:50 completed
wait_for percent 60.00 && ! said 'then by'
result 'the service throttles, as its rules say'
wait_for said '^web: The migration has completed .* by up to 60.00 %' && ! throttled
result 'and lets go'
"$command" --pid "$vm" --for 1ms 10 >"$dir/out" 2>&1
result 'and somebody else may throttle that VM then'
wait_for grep -qs '^kvm_throttle_converge_helped_total 1' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_module_loaded 1$' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_module_api_version [1-9]' "$dir/vms.prom"
result 'metrics: it has helped one'
! said quiet
result 'one that is left alone, whose monitor is in use'
# shellcheck disable=SC2086 # two ids
kill -KILL $quiet
end_fake
kill -KILL "$vm"
fake_with_vm 0 "$dir/vms/web" none active:1000
wait_for percent 60.00
result 'the next VM with that socket'
end_fake
kill -KILL "$vm"
spin_arguments="1 0w 1i -log $dir/pages -name writer"
rm -f "$dir/pages"
# Too much for the downtime, and too little to be others than the vCPUs.
fake_with_vm 0 --log "$dir/pages" --memory 4 --others 0.28 "$dir/vms/web" none active
wait_for said '^writer: If it must be throttled, its writes' && wait_for rate '[1-9][0-9]*'
result 'one by rate, as a rule says'
wait_for grep -q '^kvm_throttle_converge_dirty_rate{vm="writer",pid="[0-9]*"} [1-9]' "$dir/vms.prom"
result 'metrics: the rate'
end_holder TERM
[ "$status" -eq 0 ] && ! throttled
result 'SIGTERM: at full speed'
"$command" converge --qmp "$dir/vms/web" --max 20 </dev/null >"$dir/held" 2>&1 &
holder=$!
wait_for percent 20.00 && said "Watching the migration of spin_vm (process $vm)"
result 'a monitor that somebody else made: the right process is found'
end_holder TERM

end_fake
end_vm
finish
