# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# For the tests of the kvm-throttle command: runs it, looks at what it says,
# prints TAP.  To be sourced by a script whose $1 is the command and which has a
# function cleanup().

command=$1
as=
nr=0
failed=0
dir=$(mktemp -d) || exit 1
chmod 755 "$dir"
trap 'cleanup; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
echo 'TAP version 13'

# result NAME: the test passes if the command before this one succeeded
result()
{
	if [ $? -eq 0 ]; then
		ok=ok
	else
		ok='not ok'
		failed=$((failed + 1))
	fi
	nr=$((nr + 1))
	echo "$ok $nr $1"
	[ "$ok" = ok ] || sed 's/^/# /' "$dir/out"
}

# run ARGUMENT...: the command; what it prints comes to $dir/out, its exit
# status to $status.  On a busy machine its writer may end after it: cat waits for that.
run()
{
	{
		$as "$command" "$@" </dev/null 2>&1
		echo $? >"$dir/status"
	} | cat >"$dir/out"
	(exit "$(cat "$dir/status")")
	status=$?
}

# says PATTERN: the last run printed one line, which matches
says()
{
	[ "$(wc -l <"$dir/out")" -eq 1 ] && grep -q -- "$1" "$dir/out"
}

# expect STATUS PATTERN ARGUMENT...: a run that exits so and says that
expect()
{
	want=$1 pattern=$2
	shift 2
	run "$@"
	[ "$status" -eq "$want" ] && says "$pattern"
	result "exit status $status: $(head -n 1 "$dir/out")"
}

# finish: to be called at the end
finish()
{
	echo "1..$nr"
	[ "$failed" -eq 0 ]
	exit
}
