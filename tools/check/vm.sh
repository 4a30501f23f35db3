# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# For the tests of the kvm-throttle command that need the module: VMs of
# check/spin_vm, and throttles of them.  To be sourced by a script whose $1 is
# the command.

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

if [ ! -e /dev/kvm ] || [ "$(id -u)" -ne 0 ]; then
	echo '1..0 # SKIP needs /dev/kvm and root'
	exit 0
fi

# start_vm ARGUMENT...: of spin_vm; its process comes to $vm, its fds to $fds
start_vm()
{
	rm -f "$dir/fds"
	"$spin_vm" "$@" >"$dir/fds" &
	vm=$!
	wait_for test -s "$dir/fds"
	# shellcheck disable=SC2034 # for the tests
	fds=$(cat "$dir/fds")
}

end_vm()
{
	[ -n "$vm" ] || return
	kill -KILL "$vm"
	wait "$vm" 2>/dev/null
	vm=
}

# hold ARGUMENT...: a throttle of $vm in the background, for ten minutes at most;
# what it prints comes to $dir/held
hold()
{
	# A shell that is not interactive has ^C ignored in the background.
	env --default-signal=INT "$command" --pid "$vm" --for 10m "$@" \
		</dev/null >"$dir/held" 2>&1 &
	holder=$!
	wait_for throttled
}

# end_holder SIGNAL: 0 only waits; its exit status comes to $status
end_holder()
{
	[ -n "$holder" ] || return
	kill -"$1" "$holder" 2>/dev/null
	wait "$holder" 2>/dev/null
	status=$?
	holder=
	cp "$dir/held" "$dir/out"
}

throttled()
{
	"$command" stat --pid "$vm" | grep -q ': throttled '
}

# wait_for CONDITION...: at most 100 seconds, of which starting a large program may
# take many: virtual time runs ahead while the machine waits for its disk
wait_for()
{
	for _ in $(seq 1000); do
		"$@" && return
		sleep 0.1
	done
	return 1
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
