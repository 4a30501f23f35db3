#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests what the kvm-throttle command $1, of version $2, says to mistakes, and
# how it exits.
# Needs neither the module nor a VM.

sleeper=

# shellcheck disable=SC2317 # called by tap.sh
cleanup()
{
	[ -z "$sleeper" ] || kill "$sleeper"
}

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/tap.sh"

for percent in 100 99.991 80.123 -1. '' 1e1; do
	expect 2 'not a percentage from 0 to 99.99 with at most two decimals$' \
		--pid $$ -- "$percent"
done
for word in stats help abc; do
	expect 2 "there is no subcommand '$word'; see kvm-throttle --help" "$word"
done
expect 2 "a subcommand comes first: kvm-throttle stat " --json stat
# What `--pid $(pidof VMM)` comes to with two VMs, and with none.
expect 2 "'1240' is not a percentage .*; --pid takes one process" --pid $$ 1240 80
expect 2 'by how much' --pid 80
expect 2 'by how much' --pid $$
expect 2 'which VM? Give its name with --vm or its process with --pid; this host has' 80
expect 1 "there is no VM 'no such'; this host has" --vm 'no such' 80
expect 1 "there is no VM 'no such'; this host has" stat --vm 'no such'
expect 1 "there is no VM 'no such'; this host has" record --vm 'no such' a
expect 2 "--vm: '' is not a VM's name" --vm '' 80
run
[ $status -eq 2 ] && grep -q '^Usage: kvm-throttle' "$dir/out" && grep -q '^  stat  ' "$dir/out"
result 'no argument at all: usage'
expect 2 'one percentage' --pid $$ 80 90
expect 2 "'0' is not a process id" --pid 0 80
expect 2 "'x' is not a process id" --pid x 80
expect 2 "'99999999999' is not a process id" --pid 99999999999 80
expect 2 "'-1' is not a file descriptor" --pid $$ --fd -1 80
expect 2 "'4294967296' is not a vCPU" --pid $$ --vcpu 4294967296 80
expect 2 "'0.9ms' is not a time from 1ms to 1s" --pid $$ --period 0.9ms 80
expect 2 "'1.1s' is not a time from 1ms to 1s" --pid $$ --period 1.1s 80
expect 2 'or --dirty-rate' --pid $$
expect 2 "'0' is not a rate such as 2000" --pid $$ --dirty-rate 0
expect 2 "'10000001' is not a rate" --pid $$ --dirty-rate 10000001
expect 2 "'8M' is not a rate" --pid $$ --dirty-rate 8M
expect 2 "'8MiB' is not a rate" --pid $$ --dirty-rate 8MiB 50
expect 2 "'0.003MiB/s' is not a rate" --pid $$ --dirty-rate 0.003MiB/s
expect 2 '--period is for a percentage' --pid $$ --dirty-rate 8MiB/s --period 5ms
expect 2 'from 100ms to 1h' --pid $$ --interval 99ms 80
expect 2 'such as 500ms' --pid $$ --for 0 80
expect 2 'such as 500ms' --pid $$ --for 10days 80
expect 2 "'0' is not a number from 1" stat --interval 1s --count 0
expect 2 'count needs an --interval' stat --count 2
expect 2 'from 100ms to 1h' stat --interval 99ms
expect 2 'choose one' stat --json --prometheus "$dir/metrics.prom"
expect 2 "--prometheus: '' is not a file" stat --prometheus ''
expect 2 "what is '80'" stat 80
expect 2 "what is '80'" top 80
expect 2 'from 100ms to 1h' top --interval 2h
expect 2 'where to' record --for 1s
expect 2 "one FILE is enough: 'b'" record a b
expect 2 'such as 500ms' record --for 0 a
expect 2 "'x' is not a process id" record --pid x a
expect 2 'of what' plot
expect 2 'where to' plot a
expect 2 "two files are enough: 'c'" plot a b c
expect 2 "'-1' is not a time" plot --from=-1 a b
expect 0 "^kvm-throttle $2\$" --version
expect 2 'which VM' converge
expect 2 'which VM' converge --qmp a --domain b
expect 2 "what is '80'" converge --qmp a 80
expect 2 "'' is not a domain" converge --domain ''
expect 2 'connect is for a --domain' converge --qmp a --connect qemu:///system
# Any name may be a domain's; here there is no such libvirt.
for name in -x a/b 'a b' 5; do
	expect 1 'libvirt' converge --connect "qemu+unix:///system?socket=$dir/none" --domain="$name"
done
expect 2 "'100' is not a percentage from 0.01 to 99.99" converge --qmp a --max 100
expect 2 "'0' is not a percentage from 0.01 to 99.99" converge --qmp a --max 0
expect 2 "'0.5s' is not a time from 1s" converge --qmp a --time-limit 0.5s
expect 2 "'x' is not a process id" converge --qmp a --pid x
# options [SUBCOMMAND]: those that --help tells, but for argp's own
options()
{
	"$command" "$@" --help | sed -nE 's/^ +(-., )?(--[a-z-]+).*/\2/p' |
		grep -vxE -e '--(help|usage|version)'
}

# manual [SUBCOMMAND]: the part of the man page that is about it
manual()
{
	sed 's/\\-/-/g' "$(dirname "$0")/../kvm-throttle.8" |
		if [ -n "$1" ]; then
			sed -n "/^.nf/,/^.fi/{/kvm-throttle $1/p}; /^.SS $1\$/,/^.S[SH]/p"
		else
			sed -n '/^.SH OPTIONS/,/^.SH /p'
		fi
}

subcommands=$("$command" --help | sed -nE 's/^  ([a-z]+) .*/\1/p')
[ "$(echo "$subcommands" | wc -w)" -ge 5 ]
result "subcommands: $(echo "$subcommands" | paste -sd ' ')"
for subcommand in '' $subcommands; do
	# shellcheck disable=SC2086 # or no argument
	run $subcommand --nonsense
	[ $status -eq 2 ] && head -n 1 "$dir/out" |
		grep -qE "^(lt-)?$(basename "$command")|^kvm-throttle $subcommand: "
	result "an unknown option${subcommand:+ of $subcommand}"
	! grep -qF "$dir" "$dir/out" && ! grep -q '^[./].*: ' "$dir/out"
	result 'and no path before it'
	# shellcheck disable=SC2086
	run $subcommand --help
	[ $status -eq 0 ] && grep -q "^Usage: [^ ]*${subcommand:+ $subcommand} " "$dir/out"
	result "--help${subcommand:+ of $subcommand}"
	# shellcheck disable=SC2086
	"$command" $subcommand --help >/dev/full 2>"$dir/out"
	[ $? -eq 1 ] && says 'standard output: No space left on device'
	result 'to a full disk'
	manual "$subcommand" >"$dir/manual"
	# shellcheck disable=SC2086
	for option in $(options $subcommand); do
		echo "the man page lacks $subcommand $option" >"$dir/out"
		grep -qF -e "$option" "$dir/manual"
		result "the man page has${subcommand:+ $subcommand} $option"
	done
done
"$command" --version >/dev/full 2>"$dir/out"
[ $? -eq 1 ]
result '--version to a full disk'

# completes WANTED WORD...: bash completes the last word to WANTED
completes()
{
	want=$1
	shift
	# shellcheck disable=SC2016 # for bash
	bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
		_kvm_throttle; echo ${COMPREPLY[@]}' bash \
		"$(dirname "$0")/../completion/kvm-throttle.bash" "$command" "$@" >"$dir/out" 2>&1
	[ "$(cat "$dir/out")" = "$want" ]
	result "completion: $* becomes $want"
}

completes 'stat' st
# shellcheck disable=SC2046,SC2086,SC2116 # words
completes "$(echo $subcommands $(options) --help --usage --version)" ''
completes '--vcpu --vm --version' --v
completes '--vm --version' stat --v
completes '--prometheus' stat --pr
completes '--interval' top --i
completes '' stat --count ''
completes '' plot --from ''
completes "$dir/manual" stat --prometheus "$dir/man"
completes "$dir/manual" record "$dir/man"

# Process ids end at 4194304.
expect 1 'there is no process 4194305' --pid 4194305 80
expect 1 'there is no process 4194305' stat --pid 4194305
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ 80
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ --fd 0 80
expect 1 "process $$ .* has no KVM virtual machine" stat --pid $$
expect 1 "process $$ .* has no KVM virtual machine" stat --interval 100ms --count 1 --pid $$

expect 1 "$dir/none: No such file" converge --qmp "$dir/none"
expect 1 "$dir: is not a socket" converge --qmp "$dir"
expect 1 "too long for a socket" converge --qmp "$(printf '%0108d' 0)"
expect 1 "$dir/none/log: No such file" converge --qmp "$dir/none" --log "$dir/none/log"
# monitor STATE: what fake_qmp does; its process comes to $sleeper
monitor()
{
	rm -f "$dir/qmp"
	"$(dirname "$0")/fake_qmp" "$dir/qmp" "$1" &
	sleeper=$!
	until [ -S "$dir/qmp" ]; do
		sleep 0.1
	done
}
for case in 'garbage|this is not QMP' 'silent|no greeting: a monitor serves one client' \
	'none|(fake_qmp\|python3) has no KVM virtual machine'; do
	monitor "${case%%|*}"
	expect 1 "${case#*|}" converge --qmp "$dir/qmp"
	kill $sleeper
done
# A process whose name a terminal would take for orders.
name=$(printf '\033[31mred')
cp "$(command -v sleep)" "$dir/$name"
"$dir/$name" infinity &
sleeper=$!
until [ "$(cat /proc/$sleeper/comm)" = "$name" ]; do
	sleep 0.1
done
expect 1 "process $sleeper (?\[31mred) has no" --pid $sleeper 80

# recording OPEN_NS CLOSE_NS OFF_NS CPU: two vCPUs, three windows each, the last of
# which opens and closes so late, or is off the grid; CPU 0 is that of the first,
# CPU that of the second
recording()
{
	echo '{"type":"recording","version":1,"time_ns":1000000,"unix_time":1.000}'
	echo '{"type":"vm","vm":1,"pid":7,"command":"vmm","name":"a<b\u0027`","owner":null}'
	echo '{"type":"set","vm":1,"vcpu":null,"time_ns":1000000,"percent":80.00,"period_ns":10000000,"run_ns":2000000}'
	for vcpu in 0 1; do
		for n in 1 2 3; do
			open=$((n * 10000000)) late=0 longer=0 cpu=$((vcpu * $4))
			[ $vcpu$n != 13 ] || open=$((open + $3)) late=$1 longer=$2
			echo "{\"type\":\"window\",\"vm\":1,\"vcpu\":$vcpu,\"window\":$n,\"cpu\":$cpu,\"slept\":true,\"planned_open_ns\":$open,\"planned_close_ns\":$((open + 2000000)),\"open_ns\":$((open + late)),\"close_ns\":$((open + 2000000 + longer)),\"sleep_ns\":$((open + 2010000 + longer)),\"sleep_until_ns\":$((open + 10000000)),\"signals\":0,\"retries\":0}"
		done
	done
	echo '{"type":"end","time_ns":50000000,"lost_events":0}'
}

echo '{"type":"vm"}' >"$dir/bad"
expect 1 'line 1: it is of no known type' plot "$dir/bad" "$dir/a.svg"
recording 0 0 0 1 | head -n 3 >"$dir/bad"
expect 1 'has no windows' plot "$dir/bad" "$dir/a.svg"
recording 0 0 0 1 >"$dir/good"
expect 1 'there are no windows from 9' plot --from 9s "$dir/good" "$dir/a.svg"
expect 1 'too many to be seen' plot --for 1h "$dir/good" "$dir/a.svg"
expect 1 'No such file' plot "$dir/none" "$dir/a.svg"
expect 1 'has no windows of a VM of that name' plot --vm none "$dir/good" "$dir/a.svg"
expect 2 "'8761h' is not a time up to 8760h" plot --from 8761h a b
: >"$dir/bad"
expect 1 'the file is empty' plot "$dir/bad" "$dir/a.svg"
# The picture must not take the recording's place, by whatever name.
cp "$dir/good" "$dir/kept"
ln -s good "$dir/symlink"
ln "$dir/good" "$dir/hardlink"
for picture in good symlink hardlink; do
	expect 2 "$picture is the recording: give the picture a name of its own" \
		plot "$dir/good" "$dir/$picture"
done
# shellcheck disable=SC2094 # that is it
"$command" plot - "$dir/good" <"$dir/good" >"$dir/out" 2>&1
[ $? -eq 2 ] && says 'is the recording'
result 'plot: from the standard input too'
cmp "$dir/good" "$dir/kept" >"$dir/out"
result 'plot: the recording is still there'
# Numbers that sums of would overflow, and such that make no sense.
for wrong in 's/"period_ns":10000000/"period_ns":9223372036854775807/;number .period_ns' \
	's/"period_ns":10000000/"period_ns":4000000000000/;no such period' \
	's/"run_ns":2000000/"run_ns":10000001/;no such period' \
	's/"percent":80.00/"percent":1e308/;number .percent' \
	's/"open_ns":30000000/"open_ns":9223372036854775807/;number .open_ns' \
	's/"close_ns":12000000/"close_ns":-1/;number .close_ns' \
	's/"time_ns":1000000,"unix/"time_ns":1e300,"unix/;number .time_ns'; do
	sed "${wrong%%;*}" "$dir/good" >"$dir/bad"
	expect 1 "line [0-9]*: .*${wrong#*;}" plot "$dir/bad" "$dir/a.svg"
done
# So that gnuplot is not found.
as='env PATH=/nowhere'
run plot "$dir/good" "$dir/a.svg"
as=
[ $status -eq 1 ] && says 'install the package gnuplot-nox'
result 'gnuplot is missing'
if command -v gnuplot >"$dir/out"; then
	expect 1 '/dev/full: No space left' plot "$dir/good" /dev/full
	# boxes COLOUR: how many are of it, but for that of the legend
	boxes()
	{
		echo $(($(grep -oF "rgb($1)" "$dir/late.svg" | wc -l) - 1))
	}
	for how in '0 0 0 1' '300000 0 0 1' '0 300000 0 1' '0 0 300000 1' '300000 0 0 0'; do
		# shellcheck disable=SC2086 # several numbers
		recording $how >"$dir/late"
		run plot "$dir/late" "$dir/late.svg"
		case $how in
		'300000 0 0 1')
			off=1 said='opened 50.0 µs late on average, 300.0 µs at worst; closed 0.0' ;;
		'0 300000 0 1')
			off=1 said='closed 50.0 µs late on average, 300.0 µs at worst' ;;
		'0 0 300000 1')
			off=1 said='opened 0.0 µs late on average, 0.0 µs at worst; closed 0.0' ;;
		*)
			off=0 said='opened 0.0 µs late on average, 0.0 µs at worst; closed 0.0' ;;
		esac
		[ $status -eq 0 ] && grep -q '>vCPU 1<' "$dir/late.svg" &&
			grep -q "; $off of 6 windows off" "$dir/late.svg" &&
			grep -q "$said" "$dir/late.svg"
		result "a picture of a window that opens, closes, is off the grid by, on CPU: $how"
		# On the grid, as planned, as they were, off their plan.
		[ "$(boxes '228, 228, 236') $(boxes ' 32,  32,  32') $(boxes ' 42, 127, 184') $(boxes '217,  48,  26')" = \
			"12 6 $((6 - off)) $off" ]
		result 'its boxes'
	done
	grep -q '<title>Run windows' "$dir/late.svg" && ! grep -q '>Gnuplot<' "$dir/late.svg"
	result 'it has a title'
	grep -q '<desc>By .kvm-throttle plot' "$dir/late.svg"
	result 'and says what made it'
	grep -q 'share a CPU take turns' "$dir/late.svg"
	result 'it says that vCPUs share a CPU'
	recording 0 0 0 1 | grep -v '"type":"set"' >"$dir/late"
	run plot "$dir/late" "$dir/late.svg"
	[ $status -eq 0 ] && [ ! -s "$dir/out" ] && grep -q '>vCPU 1<' "$dir/late.svg" && ! grep -q 'share a CPU' "$dir/late.svg"
	result 'a picture of a recording without settings'
	recording 0 0 0 1 | sed 's/"lost_events":0/"lost_events":12/' >"$dir/late"
	run plot "$dir/late" "$dir/late.svg"
	[ $status -eq 0 ] && grep -q 'late: 12 events were lost' "$dir/out" &&
		grep -q '12 events are missing' "$dir/late.svg"
	result 'plot: lost events'
	recording 0 0 0 1 | head -c -60 >"$dir/late"
	run plot "$dir/late" "$dir/late.svg"
	[ $status -eq 0 ] && grep -q 'late: the recording has no end' "$dir/out" &&
		grep -q 'the recording was cut short' "$dir/late.svg"
	result 'plot: a recording that was cut short'
	# 32 vCPUs, each on a CPU of its own, for 31 seconds.
	awk 'BEGIN {
		print "{\"type\":\"recording\",\"version\":1,\"time_ns\":1000000,\"unix_time\":1.000}"
		print "{\"type\":\"vm\",\"vm\":1,\"pid\":7,\"command\":\"vmm\",\"owner\":null}"
		print "{\"type\":\"set\",\"vm\":1,\"vcpu\":null,\"time_ns\":1000000,\"percent\":80.00,\"period_ns\":10000000,\"run_ns\":2000000}"
		for (n = 1; n < 3100; n++)
			for (vcpu = 0; vcpu < 32; vcpu++) {
				open = n * 10000000
				printf "{\"type\":\"window\",\"vm\":1,\"vcpu\":%d,\"window\":%d,\"cpu\":%d,\"slept\":true,\"planned_open_ns\":%.0f,\"planned_close_ns\":%.0f,\"open_ns\":%.0f,\"close_ns\":%.0f,\"sleep_ns\":%.0f,\"sleep_until_ns\":%.0f,\"signals\":0,\"retries\":0}\n", vcpu, n, vcpu, open, open + 2000000, open + 4000, open + 2001000, open + 2003000, open + 10000000
			}
		print "{\"type\":\"end\",\"time_ns\":31000000000,\"lost_events\":0}"
	}' >"$dir/large"
	# shellcheck disable=SC3045 # dash has it
	(ulimit -t 10 && "$command" plot "$dir/large" "$dir/large.svg") >"$dir/out" 2>&1 &&
		grep -q '0 of 99168 windows off' "$dir/large.svg"
	result 'plot: a large recording takes less than 10 s of CPU time'
else
	echo "# SKIP pictures: gnuplot isn't there"
fi

# Another user's process.
cp "$command" "$dir/kvm-throttle"
command=$dir/kvm-throttle
as=$([ "$(id -u)" -ne 0 ] || echo setpriv --reuid=65534 --clear-groups)
if [ -e /proc/1/fd ] && $as "$command" --usage >"$dir/out" 2>&1; then
	expect 1 'no permission to look into process 1 .* CAP_SYS_PTRACE' \
		--pid 1 80
	expect 1 'no permission to look into process 1 ' stat --pid 1
	run stat
	[ $status -eq 0 ] && says 'that you may look into'
	result 'not all processes can be looked into'
	run stat --json
	[ $status -eq 0 ] && says '"holder":null.*"complete":false'
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
