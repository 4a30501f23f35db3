#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests `converge --all` of the kvm-throttle command $1: what it does about
# monitors, which are check/fake_qmp's, rules, signals, systemd and Prometheus.
# Needs neither the module nor a VM, so that nothing is throttled here:
# converge_test.sh tests that.
#
# Runs whose command lines are long are judged by $?, and wait_for calls some of
# the functions.
# shellcheck disable=SC2181,SC2317

service=
fakes=
listener=

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	end_service KILL
	end_fakes
	[ -z "$listener" ] || kill "$listener"
}

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"
here=$(dirname "$0")
vms=$dir/vms
mkdir "$vms"

# wait_for CONDITION...: at most a minute
wait_for()
{
	for _ in $(seq 600); do
		"$@" && return
		sleep 0.1
	done
	return 1
}

# fake NAME ARGUMENT...: of fake_qmp
fake()
{
	name=$1
	shift
	"$here/fake_qmp" "$@" 2>>"$dir/fake" &
	fakes="$fakes $!"
	wait_for test -S "$vms/$name"
}

end_fakes()
{
	for pid in $fakes; do
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	fakes=
	rm -f "$vms"/*
}

# rules LINE...
rules()
{
	printf '%s\n' 'libvirt = none' "sockets = $vms" "$@" >"$dir/rules"
}

# begin ARGUMENT...: of converge --all
begin()
{
	env --default-signal=INT,HUP "$command" converge --all --config "$dir/rules" "$@" \
		</dev/null >"$dir/out" 2>&1 &
	service=$!
}

# end_service SIGNAL: its exit status comes to $status
end_service()
{
	[ -n "$service" ] || return
	kill -"$1" "$service" 2>/dev/null
	wait "$service"
	status=$?
	service=
}

# said PATTERN
said()
{
	grep -q -- "$1" "$dir/out"
}

# no_line PATTERN: that isn't said
no_line()
{
	! said "$1"
}

# seconds: that the service has had of a CPU, in hundredths
cpu_time()
{
	awk '{ print $14 + $15 }' "/proc/$service/stat"
}

# is_idle: it takes no time of a CPU for two seconds
is_idle()
{
	last=$(cpu_time)
	[ "$last" -gt 0 ] && sleep 2 && [ "$(cpu_time)" -eq "$last" ]
}

# --- rules ---------------------------------------------------------------------

rules 'max = 90' '[web-*]' 'throttle = off'
expect 0 "rules is right" converge --all --check --config "$dir/rules"
rules 'by = any'
expect 1 "rules: line 3: by: 'any' is neither rate nor percent" converge --all --check --config "$dir/rules"
rules 'by = rate' 'max = 900'
expect 1 "rules: line 4: max: '900' is not a percentage" converge --all --check --config "$dir/rules"
expect 1 "rules: line 4: max: '900' is not a percentage" converge --all --config "$dir/rules"
expect 1 "none: No such file" converge --all --check --config "$dir/none"
expect 1 "vms: Is a directory" converge --all --check --config "$vms"
expect 2 'no option for it' converge --all --max 80
expect 2 'no option for it' converge --all --by rate
expect 2 "by: 'any' is neither rate nor percent" converge --qmp a --by any
expect 2 'no option for it' converge --all --domain a
expect 2 'are for --all' converge --qmp a --check

# --- monitors that are there, come and go ----------------------------------------

rules '[off*]' 'throttle = off'
fake there "$vms/there" active:30 completed
fake off "$vms/off" active:30 completed
begin
wait_for said 'there: a migration has begun' && said '^watching for migrations'
result 'a migration that was there before'
said "there: its migration can't be helped: process .* has no KVM virtual machine"
result 'what is wrong with it is said'
fake late --after 1 "$vms/late" none active:30 completed
fake old --after 1 --old "$vms/old" none active:30 cancelled
wait_for said 'late: a migration has begun'
result 'one of a VM that has come later: an event tells'
wait_for said 'old: a migration has begun'
result 'one of a QEMU that knows of no events'
wait_for said 'there: The migration has completed after [0-9.]* s; the guest was not throttled'
result 'its end'
wait_for said 'old: The migration was cancelled after'
result 'its end, otherwise'
wait_for said 'late: The migration has completed'
result 'the end of that'
no_line '^off'
result 'one that is left alone'
fake two --after 1 "$vms/two" none active:12 failed:2 active:12 completed
wait_for said 'two: The migration has failed .*: the other side is gone'
result 'one fails'
end_fakes
sleep 1
kill -0 "$service" && no_line 'has ended'
result 'QEMUs that end without a migration are not worth a word'
fake late "$vms/late" active:100
wait_for said "late: its migration can't" && wait_for said 'late: a migration has begun'
# shellcheck disable=SC2086 # one id, with spaces
kill -KILL $fakes
wait_for said 'late: QEMU has ended after'
result 'one that ends in its migration is'
end_fakes
fake mute "$vms/mute" silent
wait_for said 'mute: no greeting: a monitor serves one client'
result 'a monitor that serves somebody else'
fake strange "$vms/strange" garbage
wait_for said 'strange: this is not QMP'
result 'what is no monitor'
: >"$vms/file"
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('$vms/deaf')"
sleep 3
no_line 'file:' && no_line 'deaf'
result 'a file, and a socket that nobody serves'
end_fakes

# --- what a tenant may do, who controls QEMUs, their names and sockets ----------------

mkdir "$dir/victim"
"$here/fake_qmp" "$dir/victim/monitor" active:1000 &
fakes="$fakes $!"
wait_for test -S "$dir/victim/monitor"
ln -s ../victim/monitor "$vms/link"
lines='lines
web: The migration has completed'
fake "$lines" "$vms/$lines" active:1000
wait_for said '^lines?web: The migration has completed: a migration has begun' &&
	no_line '^web: The migration has completed'
result 'a name that looks like another line'
no_line '^link'
result 'a link to the monitor of another'
fake flood "$vms/flood" flood
wait_for said 'flood: it sends more than a monitor has to say'
result 'one that sends without end'
fake long --long 2000000 "$vms/long" active:1000
wait_for said "long: .*: this is not QMP: it doesn't end"
result 'an answer without end'
end_fakes
end_service TERM
fake few.29 --copies 30 "$vms/few" active:1000
# Both limits: it takes all that it may.
prlimit --nofile=40:40 env --default-signal=INT,HUP "$command" converge --all \
	--config "$dir/rules" </dev/null >"$dir/out" 2>&1 &
service=$!
wait_for said 'few.[0-9]*: Too many open files' && wait_for said 'few.[0-9]*: a migration has begun' &&
	kill -0 "$service" && no_line "can't be found"
result 'more sockets than it may have files'
end_service TERM
[ "$status" -eq 0 ]
result 'which is not its end'
end_fakes
begin

# --- signals -------------------------------------------------------------------------

fake web "$vms/web" active:1000
wait_for said 'web: a migration has begun'
rules 'maximum = 80'
kill -HUP "$service"
wait_for said "line 3: there is no 'maximum'.*; the rules stay as they were"
result 'SIGHUP: rules that are wrong'
rules '[web]' 'throttle = off'
kill -HUP "$service"
wait_for said '^the rules were read again' && wait_for said 'web: it is left alone from now on'
result 'SIGHUP: one is left alone from now on'
: >"$dir/out"
rules
kill -HUP "$service"
wait_for said 'web: a migration has begun'
result 'SIGHUP: and not any more'
from=$(date +%s%N)
end_service TERM
[ "$status" -eq 0 ] && [ $((($(date +%s%N) - from) / 1000000)) -lt 1000 ]
result 'SIGTERM'
begin
wait_for said 'web: a migration has begun'
end_service INT
[ "$status" -eq 0 ]
result 'SIGINT'
end_fakes
rules "sockets = $dir/later"
begin
wait_for said "later: No such file or directory; trying again each minute"
result 'a folder that is not there'
end_service TERM

# --- JSON, Prometheus, systemd ----------------------------------------------------------

rules "prometheus = $dir/vms.prom" 'max = 70'
fake web "$vms/web" active:40 completed
fake 'a"b\c' "$vms/a\"b\\c" active:1000
fake one --name twin "$vms/one" active:1000
fake two --name twin "$vms/two" active:1000
begin --json
wait_for grep -qs '^kvm_throttle_converge_migrations_total{end="completed"} 1' "$dir/vms.prom"
result 'metrics: one has ended'
grep -q '^kvm_throttle_module_loaded [01]$' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_converge_vms 4$' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_converge_throttle_ratio{vm="a\\"b\\\\c",pid="[0-9]*"} 0$' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_converge_dirty_rate{vm="a\\"b\\\\c",pid="[0-9]*"} 0$' "$dir/vms.prom" &&
	grep -q '^kvm_throttle_converge_remaining_bytes{vm="a\\"b\\\\c",pid="[0-9]*"} [1-9]' "$dir/vms.prom" &&
	! grep -q 'ratio{vm="web' "$dir/vms.prom"
result 'metrics: the others'
python3 - "$dir/vms.prom" <<'PYTHON'
import re, sys
typed, seen = set(), set()
for line in open(sys.argv[1]):
    if line.startswith('#'):
        _, word, name, rest = line.split(' ', 3)
        if word == 'TYPE':
            assert rest.strip() in ('gauge', 'counter') and name not in typed, line
            typed.add(name)
        continue
    match = re.fullmatch(r'(\w+)(\{(\w+="([^"\\\n]|\\.)*",?)*\})? (\+Inf|NaN|[-+.e0-9]+)\n', line)
    series = line.rpartition(' ')[0]
    assert match and match[1] in typed and series not in seen, line
    seen.add(series)
PYTHON
result 'metrics: in the form that is documented, two of one name too'
end_service TERM
python3 - "$dir/out" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
web = [line for line in lines if line['vm_name'] == 'web']
assert [web[0]['event'], web[-1]['event']] == ['start', 'end'], web
assert web[0]['max_percent'] == 70 and web[0]['pid'] == web[0]['vm']['pid'], web[0]
assert web[-1]['end'] == 'completed' and web[-1]['highest_percent'] == 0, web[-1]
assert web[-1]['lowest_rate_limit'] is None, web[-1]
assert 'unhelped_s' in web[-1], web[-1]
PYTHON
result 'JSON: each line'
end_fakes
rules "prometheus = $dir/none/vms.prom"
fake web "$vms/web" active:300 completed
begin
wait_for said 'none/vms.prom can.t be written'
result 'metrics that nobody can write are told'
kill -0 "$service"
result 'and change nothing'
end_service TERM
end_fakes

# What is said to systemd: each datagram comes to a line.
cat >"$dir/listen" <<'PYTHON'
import socket, struct, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(sys.argv[1])
while True:
    data, line = server.recv(1 << 20), ''
    if b'\n' not in data:
        line = data.decode()
    while b'\n' in data:
        name, _, data = data.partition(b'\n')
        size, = struct.unpack('<Q', data[:8])
        assert data[8 + size:9 + size] == b'\n'
        line += f'{name.decode()}={data[8:8 + size].decode()};'
        data = data[9 + size:]
    print(line, flush=True)
PYTHON

# listen SOCKET: what it gets comes to $dir/heard
listen()
{
	python3 "$dir/listen" "$1" >"$dir/heard" &
	listener=$!
	wait_for test -S "$1"
}

heard()
{
	grep -q -- "$1" "$dir/heard"
}

rules
listen "$dir/notify"
NOTIFY_SOCKET=$dir/notify WATCHDOG_USEC=600000 begin
wait_for heard READY=1 && [ "$(sed -n '/READY=1/=' "$dir/heard")" -le 2 ]
result 'systemd: it is ready'
sleep 2
[ "$(grep -c WATCHDOG=1 "$dir/heard")" -ge 4 ]
result 'systemd: it works'
kill -STOP "$service"
sleep 0.5
before=$(grep -c WATCHDOG=1 "$dir/heard")
sleep 1.5
[ "$(grep -c WATCHDOG=1 "$dir/heard")" -eq "$before" ]
result 'systemd: it does not'
kill -CONT "$service"
end_service TERM
heard STOPPING=1
result 'systemd: it ends'
kill "$listener"

# The path is systemd's: only where there is no systemd, and for root.
if [ "$(id -u)" -eq 0 ] && [ ! -e /run/systemd/journal/socket ] && mkdir -p /run/systemd/journal; then
	listen /run/systemd/journal/socket
	fake web "$vms/web" active:30 completed
	: >"$dir/out"
	python3 - "$command" converge --all --config "$dir/rules" >"$dir/out" 2>&1 <<'PYTHON' &
import os, sys
out = os.fstat(1)
os.environ['JOURNAL_STREAM'] = f'{out.st_dev}:{out.st_ino}'
os.execv(sys.argv[1], sys.argv[1:])
PYTHON
	service=$!
	wait_for heard 'PRIORITY=6;SYSLOG_IDENTIFIER=kvm-throttle;MESSAGE=web: The migration has completed'
	result 'the journal: an end'
	heard 'KVM_THROTTLE_END=completed;.*KVM_THROTTLE_HIGHEST_PERCENT=0.00;.*KVM_THROTTLE_VM_NAME=web;KVM_THROTTLE_PID=[0-9]*;' &&
		heard "PRIORITY=4;.*MESSAGE=web: its migration can't be helped"
	result 'the journal: its fields'
	[ ! -s "$dir/out" ]
	result 'the journal: nothing is said twice'
	kill "$listener"
	listener=
	rm -r /run/systemd/journal
	end_service TERM
	[ "$status" -eq 0 ]
	result 'the journal: none that is not there is waited for'
	end_fakes
fi
listener=

# --- many ---------------------------------------------------------------------------------

rules
fake many.99 --copies 100 "$vms/many" active:100000
begin
wait_for sh -c "[ \$(grep -c 'a migration has begun' '$dir/out') -eq 100 ]"
result '100 VMs that are migrated'
sleep 3
before=$(cpu_time)
sleep 10
took=$(($(cpu_time) - before))
echo "# 100 migrations take $((took / 10)).$((took % 10)) % of a CPU"
# Sanitizers take more than that.
[ "$took" -lt 20 ] || [ "${command%-sanitize}" != "$command" ]
result 'take less than 2 % of a CPU'
end_service TERM
[ "$status" -eq 0 ]
result 'and are let go of'
end_fakes
fake many.99 --copies 100 "$vms/many" none
begin
# Until it has got to know them all, which takes a busy machine long.
wait_for is_idle
before=$(cpu_time)
sleep 10
took=$(($(cpu_time) - before))
echo "# 100 VMs that nothing happens to take $((took / 10)).$((took % 10)) % of a CPU"
[ "$took" -le 1 ]
result '100 VMs that nothing happens to take nothing'
end_service TERM
end_fakes

finish
