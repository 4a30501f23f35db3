#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tests what the kvm-throttle command $1, of version $2, says to mistakes, and
# how it exits.
# Needs neither the module nor a VM.

sleeper=
path=$PATH

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
expect 2 "'0' is not a number from 1" stat --interval 1s --count 0
expect 2 'count needs an --interval' stat --count 2
expect 2 'from 100ms to 1h' stat --interval 99ms
expect 2 'choose one' stat --json --prometheus "$dir/metrics.prom"
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
expect 2 "'-x' is not a domain" converge --domain=-x
expect 2 "'a/b' is not a domain" converge --domain a/b
expect 2 "'100' is not a percentage from 0.01 to 99.99" converge --qmp a --max 100
expect 2 "'0' is not a percentage from 0.01 to 99.99" converge --qmp a --max 0
expect 2 "'0.5s' is not a time from 1s" converge --qmp a --time-limit 0.5s
expect 2 "'x' is not a process id" converge --qmp a --pid x
for subcommand in '' converge stat top record plot; do
	# shellcheck disable=SC2086 # or no argument
	run $subcommand --nonsense
	[ $status -eq 2 ]
	result "an unknown option${subcommand:+ of $subcommand}"
	# shellcheck disable=SC2086
	run $subcommand --help
	[ $status -eq 0 ] && grep -q "^Usage: [^ ]*${subcommand:+ $subcommand} " "$dir/out"
	result "--help${subcommand:+ of $subcommand}"
done

# Process ids end at 4194304.
expect 1 'there is no process 4194305' --pid 4194305 80
expect 1 'there is no process 4194305' stat --pid 4194305
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ 80
expect 1 "process $$ .* has no KVM virtual machine" --pid $$ --fd 0 80
expect 1 "process $$ .* has no KVM virtual machine" stat --pid $$

expect 1 "$dir/none: No such file" converge --qmp "$dir/none"
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
# shellcheck disable=SC2123 # so that gnuplot is not found
PATH=/nowhere
run plot "$dir/good" "$dir/a.svg"
PATH=$path
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
