#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests the subcommands stat, top, record and plot of the kvm-throttle command
# $1 with the module, on VMs of check/spin_vm.  For root on a machine with
# /dev/kvm where kvm_throttle can be loaded, such as that of vm/vm.
#
# Runs whose command lines are long are judged by $?, and $nobody is words.
# shellcheck disable=SC2181,SC2086

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/vm.sh"
name=$(basename "$command" | cut -c 1-15)
on_terminal=$(dirname "$0")/on_terminal
nobody='setpriv --reuid=65534 --clear-groups'
tracing=/sys/kernel/tracing

# in_background ARGUMENT...: the command; its process comes to $job, what it
# prints to $dir/job
in_background()
{
	env --default-signal=INT,PIPE "$command" "$@" </dev/null >"$dir/job" 2>&1 &
	job=$!
}

# end_job SIGNAL: 0 only waits; its exit status comes to $status
end_job()
{
	kill -"$1" $job 2>/dev/null
	wait $job 2>/dev/null
	status=$?
	cp "$dir/job" "$dir/out"
}

# The recorder has set up its instance of the kernel's tracing: this is the last
# that it does to it.
tracing_is_on()
{
	grep -qx 1 $tracing/instances/*/events/kvm_throttle/enable 2>/dev/null
}

# nothing_left: no instance of the kernel's tracing is there any more
nothing_left()
{
	[ -z "$(ls $tracing/instances)" ]
}

# recorded FILE EXPRESSION: is true, of a list of all lines, and of a function
# that returns those of a type; $vm and other variables can be in it. If it
# isn't, what was recorded is told.
recorded()
{
	python3 -c '
import json, sys
from collections import Counter
lines = [json.loads(line) for line in open(sys.argv[1])]
right = False
def of(kind):
    return [line for line in lines if line["type"] == kind]
def run(windows):
    """Which share of the time they were open, by their own times."""
    whole = [w for w in windows if w["open_ns"] and w["close_ns"]]
    return (sum(w["close_ns"] - w["open_ns"] for w in whole[:-1]) /
            (whole[-1]["open_ns"] - whole[0]["open_ns"]))
def tell():
    for line in lines:
        if line["type"] != "window":
            print(line)
    print(Counter((w["vm"], w["vcpu"]) for w in of("window")))
try:
    right = eval("(" + sys.argv[2] + ")")
finally:
    right or tell()
sys.exit(not right)
' "$1" "$2" >>"$dir/out" 2>&1
}

# drawn PATTERN: the last run drew that on its terminal, all at once
drawn()
{
	sed -E "s/$(printf '\033')(\[[?0-9;]*[A-Za-z]|\(B)/ /g" "$dir/out" | grep -qE "$1"
}

# metrics FILE EXPRESSION: FILE is what Prometheus can read, and the expression
# is true of series, by name and labels
metrics()
{
	python3 -c '
import re, sys
text = open(sys.argv[1]).read()
assert text.endswith("\n")
series, types, helps = {}, {}, set()
for line in text.splitlines():
    if m := re.fullmatch(r"# TYPE (\w+) (gauge|counter)", line):
        assert m[1] not in types
        types[m[1]] = m[2]
        continue
    if m := re.fullmatch(r"# HELP (\w+) .+", line):
        helps.add(m[1])
        continue
    label = r"\w+=\"(?:[^\"\\\n]|\\[\\\"n])*\""
    m = re.fullmatch(r"(\w+)(?:\{(%s(?:,%s)*)\})? (\S+)" % (label, label), line)
    assert m and m[1] in types and m[1] in helps, line
    assert (types[m[1]] == "counter") == m[1].endswith("_total"), line
    labels = dict(re.findall(r"(\w+)=\"((?:[^\"\\]|\\.)*)\"", m[2] or ""))
    key = (m[1], tuple(labels.items()))
    assert key not in series, line
    series[key] = float(m[3])
def value(name, **labels):
    (found,) = [v for (n, l), v in series.items()
                if n == "kvm_throttle_" + name and labels.items() <= dict(l).items()]
    return found
if not eval("(" + sys.argv[2] + ")"):
    sys.exit(text)
' "$1" "$2" 2>>"$dir/out"
}

modprobe -r kvm_throttle
expect 1 'modprobe kvm_throttle' record "$dir/none"
nothing_left
result 'no tracing is left without the module'
modprobe kvm_throttle || exit 1

# --- stat -----------------------------------------------------------------

# A name that has to be quoted.
start_vm 1 0 7i -name 'guest=we"b\1,debug-threads=on'
hold --period 5ms 80
# A stall is longer if another task has the CPU in a run window: not one of ours.
chrt --idle --pid 0 $$

run stat --interval 500ms --count 2
[ $status -eq 0 ] && [ "$(grep -c '^20[0-9-]* [0-9:]*$' "$dir/out")" -eq 2 ] &&
	[ "$(grep -cF "spin_vm (process $vm, VM we\"b\\1): throttled by 80.00 %, by $name (process $holder)" "$dir/out")" -eq 2 ] &&
	[ "$(awk '$1 == 0 && $4 > 79 && $4 < 81' "$dir/out" | wc -l)" -eq 2 ] &&
	[ "$(awk '$1 == 7 && $10 == "idle"' "$dir/out" | wc -l)" -eq 2 ]
result 'stat: a table for each interval'

run stat --interval 500ms --count 2 --json --pid "$vm"
[ $status -eq 0 ] && [ "$(wc -l <"$dir/out")" -eq 2 ] && json "
v['vm'] == {'pid': $vm, 'command': 'spin_vm', 'name': 'we\"b\\\\1'} and
[c['idle'] for c in v['vcpus']] == [False, True] and
abs(v['vcpus'][0]['interval_percent'] - 80) < 1 and
3.9e6 < v['vcpus'][0]['stall_max_ns'] < 5e6 + v['vcpus'][0]['late_max_ns'] and v['vcpus'][1]['stall_max_ns'] == 0"
result 'stat: JSON for each interval'
json "
(lambda old, new: abs(new['interval_percent'] - 100 * (new['throttled_ns'] -
old['throttled_ns']) / (new['elapsed_ns'] - old['elapsed_ns'])) < 0.006)(
*(line['vcpus'][0] for line in lines))"
result "stat: an interval's share is that of its time"

# stall: the longest of vCPU 0, in nanoseconds.  It may be longer than above by now.
stall()
{
	"$command" stat --pid "$vm" --json | python3 -c '
import json, sys
print(json.load(sys.stdin)["vcpus"][0]["stall_max_ns"])'
}

before=$(stall)
run stat --prometheus "$dir/a.prom"
after=$(stall)
ln "$dir/a.prom" "$dir/old.prom"
[ $status -eq 0 ] && [ ! -s "$dir/out" ] && metrics "$dir/old.prom" "
value('vms') == 1 and value('complete') == 1 and
value('target_ratio', vcpu='0') == 0.8 and
value('period_seconds', vcpu='7', pid='$vm', owner_pid='$holder') == 0.005 and
{tuple(k for k, v in labels) for name, labels in series if labels} ==
{('vm', 'command', 'pid', 'owner', 'owner_pid', 'owner_fd', 'vcpu')} and
0.7 < value('throttled_seconds_total', vcpu='0', vm=r'we\\\"b\\\\1') /
value('elapsed_seconds_total', vcpu='0') < 0.9 and
value('windows_total', vcpu='7', command='spin_vm', owner='$name') == 0 and
0 < value('late_max_seconds', vcpu='0') < 1 and
0.0039e9 < $before <= round(1e9 * value('stall_max_seconds', vcpu='0')) <= $after and
value('interrupted_total', vcpu='0') == 0 and
value('retries_total', vcpu='0') == 0"
result 'stat: a file for Prometheus'
chrt --other --pid 0 $$
[ "$(stat -c %a "$dir/a.prom")" = 644 ]
result 'others can read it'
cp "$dir/old.prom" "$dir/before.prom"
run stat --prometheus "$dir/a.prom"
cmp -s "$dir/old.prom" "$dir/before.prom" && ! cmp -s "$dir/a.prom" "$dir/old.prom" &&
	[ "$(find "$dir" -name 'a.prom*' | wc -l)" -eq 1 ]
result 'it is replaced whole'

in_background stat --interval 100ms --prometheus "$dir/b.prom"
wait_for test -e "$dir/b.prom"
first=$(stat -c %i "$dir/b.prom")
sleep 1
[ "$(stat -c %i "$dir/b.prom")" -ne "$first" ] && [ ! -s "$dir/job" ]
result 'it is replaced in each interval'
end_job INT
[ $status -eq 0 ] && [ "$(find "$dir" -name 'b.prom*' | wc -l)" -eq 1 ]
result 'stat: SIGINT'

mkdir "$dir/full"
mount -t tmpfs -o size=4k none "$dir/full"
echo old >"$dir/full/a.prom"
expect 1 'a.prom: can.t be written: No space left' stat --prometheus "$dir/full/a.prom"
[ "$(ls "$dir/full")" = a.prom ] && [ "$(cat "$dir/full/a.prom")" = old ]
result 'the old file stays when the disk is full'
expect 1 'none/a.prom: .*: No such file or directory' stat --prometheus "$dir/none/a.prom"
expect 1 'not a regular file' stat --prometheus /dev/null
[ -c /dev/null ]
result 'a device stays'
umount "$dir/full"
as=$nobody
expect 1 "$dir/c.prom: .*: Permission denied" stat --prometheus "$dir/c.prom"
as=

in_background stat --interval 200ms --pid "$vm"
sleep 1
end_holder TERM
ended=$vm
end_vm
end_job 0
[ $status -eq 3 ] && last "^kvm-throttle.*: process $ended (spin_vm) has ended$"
result 'stat: the VM ended'

# --- top ------------------------------------------------------------------

expect 1 'not a terminal: use .kvm-throttle stat --interval' top
TERM=nonsense "$on_terminal" 24x80 -- "$command" top >"$dir/out"
[ $? -eq 1 ] && grep -q "'nonsense' can't be drawn on.*kvm-throttle stat" "$dir/out"
result 'top: an unknown terminal'
TERM=dumb "$on_terminal" 24x80 -- "$command" top >"$dir/out"
[ $? -eq 1 ] && grep -q "'dumb' can't be drawn on.*kvm-throttle stat" "$dir/out"
result 'top: a terminal whose cursor stays where it is'

export TERM=xterm
# The cells that ncurses leaves as they are aren't drawn again, so what is looked
# for has to be new.
"$on_terminal" 24x80 2 key:q -- "$command" top >"$dir/out"
[ $? -eq 0 ] && grep -q 'No VM is throttled\.' "$dir/out" && grep -q 'q quit' "$dir/out"
result 'top: nothing to show'

start_vm 1 0 3i -name guest=web7,debug-threads=on
hold 80
LC_ALL=C "$on_terminal" 24x120 3 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] &&
	drawn "$vm web7 +$holder $name +2 +80\.00" &&
	drawn '1 VM, 2 vCPUs, 1 idle; every 0.3 s' &&
	drawn 'vCPU 0 +80\.00 +(79|80)\.[0-9]+ +(79|80)\.[0-9]+ +8\.[0-9]+ +([89]|1[0-9]|2[0-6])\.[0-9]+ +[1-9][0-9]*\.[0-9] ' &&
	drawn 'vCPU 3 +80\.00 +idle' &&
	grep -qF "$(tput rmcup)" "$dir/out"
result 'top: a VM, and its vCPUs'
grep -qF '*' "$dir/out" && ! grep -q '▇' "$dir/out"
result 'top: the share over time, in ASCII'
end_holder TERM
# Of a second, the vCPU runs 200 ms: most intervals are either all or nothing.
hold --period 1s 80
LC_ALL=C "$on_terminal" 24x120 3 key:e 0.4 key:e 0.4 key:e 0.4 key:e 0.4 key:e 0.4 key:e \
	0.4 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] && drawn 'vCPU 0 +80\.00 +100\.00 ' && grep -qF '#' "$dir/out" &&
	grep -q '[_.:-=]#' "$dir/out" && grep -qF "$(tput setaf 3)" "$dir/out"
result 'top: what was, not what was to be'
end_holder TERM
hold 80
LC_ALL=C.UTF-8 "$on_terminal" 24x120 3 key:q -- "$command" top --interval 300ms >"$dir/out"
grep -q '▇' "$dir/out"
result 'top: the share over time, in UTF-8'
"$on_terminal" 24x80 2 size:6x120 2 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] && [ "$(grep -c 'MEAN %' "$dir/out")" -eq 1 ]
result 'top: a terminal that becomes wider has room for more'
"$on_terminal" 24x20 2 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] && drawn 'web7 +(79|80)\.[0-9]+' && grep -q 'NOW %' "$dir/out" &&
	! grep -q 'TARGET' "$dir/out"
result 'top: 20 columns have room for what matters most'
"$on_terminal" 24x40 2 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] && drawn 'web7 +80\.00 +(79|80)\.[0-9]+ +[0-9]+\.[0-9]+' &&
	grep -q 'LONGEST ms' "$dir/out" && ! grep -q 'BY PID' "$dir/out"
result 'top: 40 columns, with the longest stall'
"$on_terminal" 1x1 2 size:2x5 1 size:24x80 1 key:e 1 size:3x20 1 key:q -- \
	"$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ]
result 'top: tiny terminals'
for signal in INT TERM HUP; do
	"$on_terminal" 24x80 2 "sh:kill -$signal \$CHILD" -- \
		"$command" top --interval 300ms >"$dir/out"
	[ $? -eq 0 ] && grep -qF "$(tput rmcup)" "$dir/out"
	result "top: SIG$signal"
done
NO_COLOR=1 "$on_terminal" 24x80 2 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
! grep -qF "$(tput setaf 4)" "$dir/out"
result 'top: NO_COLOR'
"$on_terminal" 24x80 2 key:e 1 key:q -- "$command" top --interval 300ms >"$dir/out"
grep -qF "$(tput setaf 4)" "$dir/out"
result 'top: an idle vCPU has a colour of its own'

# Sorted by name, then in the other direction.
first_vm=$vm
first_holder=$holder
start_vm 1 0i -name aaa
hold 50
"$on_terminal" 24x80 2 key:v 1 key:q -- "$command" top --interval 10s >"$dir/out"
[ "$(grep -oE 'web7|aaa' "$dir/out" | head -n 4 | paste -sd ' ')" = 'web7 aaa aaa web7' ]
result 'top: sorted by another column'

"$on_terminal" 24x80 2 "sh:kill -KILL $vm" 3 key:q -- "$command" top --interval 300ms >"$dir/out"
[ $? -eq 0 ] && grep -q '2 VMs, 3 vCPUs' "$dir/out" && grep -qE 'top: .*1 .*VM, 2' "$dir/out"
result 'top: a VM ends'
vm=
end_holder 0
"$on_terminal" 24x80 2 key:q -- $nobody "$command" top >"$dir/out"
[ $? -eq 0 ] && grep -q 'only root sees all' "$dir/out" &&
	grep -q 'by any process that you may look into' "$dir/out"
result 'top: no permission'
vm=$first_vm
holder=$first_holder

# --- record ---------------------------------------------------------------

run record --for 1s "$dir/a.rec"
[ $status -eq 0 ] && grep -qE '^[0-9]+ windows of 1 vCPUs in 1\.[0-9] s$' "$dir/out" &&
	recorded "$dir/a.rec" "
of('vm') == [{'type': 'vm', 'vm': of('vm')[0]['vm'], 'pid': $vm, 'command': 'spin_vm',
'name': 'web7', 'owner': {'pid': $holder, 'command': '$name'}}] and
lines[0]['type'] == 'recording' and lines[0]['version'] == 1 and
lines[-1]['type'] == 'end' and lines[-1]['lost_events'] == 0 and
[(s['vcpu'], s['percent'], s['period_ns'], s['run_ns']) for s in of('set')] ==
[(0, 80, 10472000, 2094400), (3, 80, 10472000, 2094400)] and
85 < len(of('window')) < 105"
result 'record: the windows of a second'
recorded "$dir/a.rec" "
[w['window'] for w in of('window')] ==
list(range(of('window')[0]['window'], of('window')[-1]['window'] + 1)) and
all(w['planned_open_ns'] < w['open_ns'] < w['close_ns'] <= w['sleep_ns'] <
w['sleep_until_ns'] and w['slept'] and not w['signals'] and not w['retries'] and
w['cpu'] is not None and w['close_ns'] >= w['planned_close_ns']
for w in of('window')[:-1])"
result 'record: none is missing, their times are in order'
recorded "$dir/a.rec" "abs(run(of('window')) - 0.2) < 0.005"
result 'record: their lengths are 20 % of the time'
nothing_left
result 'record: no tracing is left'

in_background record "$dir/b.rec"
wait_for tracing_is_on
sleep 0.5
end_holder TERM
sleep 0.2
hold --vcpu 0 50
sleep 0.5
end_holder TERM
sleep 0.2
end_job INT
[ $status -eq 0 ] && recorded "$dir/b.rec" "
[v['pid'] for v in of('vm')] == [$vm] * 2 and
[d['dead'] for d in of('detach')] == [False] * 2 and
[(s['vcpu'], s['percent']) for s in of('set')][2:] in ([(0, 50)], [(0, 50), (None, 0)]) and
0.47 < run([w for w in of('window') if w['vm'] == of('vm')[1]['vm']]) < 0.53"
result 'record: throttles end and begin'
nothing_left
result 'record: SIGINT'

hold --period 100ms 90
in_background record --pid "$vm" "$dir/c.rec"
wait_for tracing_is_on
for _ in 1 2 3 4 5; do
	sleep 0.13
	kill -STOP "$vm"
	sleep 0.05
	kill -CONT "$vm"
done
ended=$vm
# It might see the end of the process, and let go, before the VM is gone.
kill -STOP "$holder"
end_vm
end_job 0
kill -CONT "$holder"
[ $status -eq 3 ] && last "process $ended (spin_vm) has ended$" && recorded "$dir/c.rec" "
of('detach')[-1]['dead'] and len(of('signal')) >= 2 and
sum(w['signals'] for w in of('window')) == len(of('signal')) and
all((s['vcpu'] == 0 or of('detach')[-1]['time_ns'] - s['time_ns'] < 100e6) and lines[0]['time_ns'] < s['time_ns'] < lines[-1]['time_ns']
for s in of('signal'))"
result 'record: signals, and the VM ended'
nothing_left
result 'record: no tracing is left of it'
end_holder 0

start_vm 1 0
hold --period 1ms 50
for signal in TERM HUP; do
	in_background record "$dir/d.rec"
	wait_for tracing_is_on
	sleep 0.3
	end_job $signal
	[ $status -eq 0 ] && nothing_left && recorded "$dir/d.rec" "lines[-1]['type'] == 'end'"
	result "record: SIG$signal"
done
expect 1 '/dev/full: No space left' record --for 1s /dev/full
expect 1 "$dir/none/a.rec: No such file" record --for 1s "$dir/none/a.rec"
"$command" record --for 10s - 2>"$dir/out" | head -n 1 >"$dir/line"
says 'Broken pipe' && recorded "$dir/line" "lines[0]['type'] == 'recording'"
result 'record: nobody reads it'
nothing_left
result 'record: no tracing is left where it fails'

in_background record "$dir/d.rec"
wait_for tracing_is_on
sleep 0.3
end_job KILL
tracing_is_on
result 'record: SIGKILL leaves it'
run record --for 100ms "$dir/d.rec"
nothing_left
result 'record: what it left is removed by the next'

# It isn't read for longer than the ring buffer lasts.
in_background record "$dir/d.rec"
wait_for tracing_is_on
echo 8 >"$(echo $tracing/instances/*)/buffer_size_kb"
kill -STOP $job
sleep 1
kill -CONT $job
sleep 0.3
end_job INT
[ $status -eq 0 ] && last '[0-9]* events were lost' &&
	recorded "$dir/d.rec" "lines[-1]['lost_events'] > 100"
result 'record: lost events'

expect 1 'no KVM virtual machine' record --pid $$ --for 1s "$dir/e.rec"
as=$nobody
expect 1 'no permission to use /sys/kernel/tracing: run as root' \
	record --for 1s "$dir/e.rec"
unshare --mount sh -c "umount $tracing; exec \"\$@\"" sh \
	"$command" record --for 1s "$dir/e.rec" >"$dir/out" 2>&1
[ $? -eq 1 ] && says "mount -t tracefs nodev $tracing"
result 'record: tracefs is not mounted'
as=

# --- the bpftrace example -------------------------------------------------

if command -v bpftrace >"$dir/out"; then
	end_holder TERM
	# 80 % of 10.472 ms are 8.4 ms.
	hold 80
	env --default-signal=INT bpftrace "$(dirname "$0")/../kvm-throttle-stalls.bt" \
		>"$dir/job" 2>&1 &
	job=$!
	# It compiles first.
	for _ in 1 2 3; do
		wait_for grep -q 'Watching all' "$dir/job" && break
	done
	sleep 1
	end_holder TERM
	hold 50
	by=$holder
	end_holder TERM
	sleep 0.2
	end_job INT
	[ $status -eq 0 ] && [ "$(grep -cE '^throttle [0-9]+: ended$' "$dir/out")" -eq 2 ] &&
		grep -qE "^throttle [0-9]+: VM of process $vm, by $name \($by\)\$" "$dir/out" &&
		grep -qE '^throttle [0-9]+: vCPU -1 \(-1: all\) to 50\.00 percent$' "$dir/out" &&
		grep -qE '^@late_ns\[[0-9]+, 0\]: ?$' "$dir/out" &&
		grep -qE '^@longest_stall_us\[[0-9]+, 0\]: (8|9|[12][0-9])[0-9]{3}$' "$dir/out" &&
		grep -qE '^\[8K, 16K\) +([89]|1[0-9])[0-9] ' "$dir/out"
	result 'kvm-throttle-stalls.bt: the stalls of a vCPU'
else
	echo "# SKIP kvm-throttle-stalls.bt: bpftrace isn't there"
fi

# --- thousands of VMs -------------------------------------------------------

end_holder TERM
end_vm
many=2000
pids=
# In 20 processes, which throttle them.
for i in $(seq 20); do
	"$spin_vm" $((many / 20)) 1i -throttle 50 -name "host$i" >"$dir/fds" &
	pids="$pids $!"
	wait_for test -s "$dir/fds"
	: >"$dir/fds"
done

# took COMMAND...: its time, in milliseconds, comes to $took_ms; its status is the command's
took()
{
	from=$(date +%s%N)
	"$@" >"$dir/out" 2>&1
	status=$?
	took_ms=$((($(date +%s%N) - from) / 1000000))
	return $status
}

# in_time NAME COMMAND...: it succeeds within 750 million instructions, which take this
# machine three seconds
in_time()
{
	what=$1
	shift
	took "$@" && [ $took_ms -lt 3000 ]
	result "$what: $took_ms ms"
}

in_time stat "$command" stat
[ "$(grep -c ': throttled by 50.00 %, by spin_vm' "$dir/out")" -eq $many ]
result 'and has all'
in_time 'stat --json' "$command" stat --json
[ "$(grep -c '"percent":50.0' "$dir/out")" -eq $many ]
result 'and has all'
in_time 'stat --prometheus' "$command" stat --prometheus "$dir/many.prom"
metrics "$dir/many.prom" "value('vms') == $many and
list(series.values()).count(0.5) == $many"
result 'and has all'
in_time 'stat --vm' "$command" stat --vm host20
took "$on_terminal" 24x80 -- true
empty_ms=$took_ms
took "$on_terminal" 24x80 key:q -- "$command" top
[ $? -eq 0 ] && drawn "$many VMs, $many vCPUs" && [ $((took_ms - empty_ms)) -lt 3000 ]
result "top: $((took_ms - empty_ms)) ms until it is drawn"
kill -KILL $pids
wait $pids 2>/dev/null

# --- plot -----------------------------------------------------------------

if command -v gnuplot >"$dir/out"; then
	run plot "$dir/a.rec" "$dir/a.svg"
	[ $status -eq 0 ] && grep -q '>vCPU 0<' "$dir/a.svg" &&
		grep -qE "web7 \(process $first_vm\), throttled by 80\.00 %, measured (79\.[789]|80\.[012])" "$dir/a.svg"
	result 'plot: what record wrote'
else
	echo "# SKIP plot: gnuplot isn't there"
fi

finish
