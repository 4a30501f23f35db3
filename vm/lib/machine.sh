# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The machine, whatever emulates it: packs what it gets, starts and follows it, and
# collects what comes of it.
#
# Part of vm/vm.

# shellcheck disable=SC2034,SC2154 # variables of other parts

readonly status_kernel_warned=99 status_timeout=124 status_vm_failed=125

# Before a command: it ends with this script, and has this user's sub-uids.
ending_with_us=("${user_namespace[@]}" setpriv --pdeathsig KILL --)

# in_trixie CMD...: for trixie's own kernel, whatever this run is for
in_trixie()
{
	env SUITE=trixie FLAVOUR='' ARCH=amd64 KERNEL='' EXPORTS='' FTRACE='' \
		KVM_THROTTLE_CACHE="$cache" "$@"
}

# Sets $emulator, the root that the emulator runs in, trixie's whatever is booted, and
# $in_emulator, what to put before a program to run it outside with that root's libraries.
find_emulator()
{
	emulator=$(in_trixie bash "$here/vm" _root)
	exec {emulator_lock}<"$emulator"
	flock --shared "$emulator_lock"
	in_emulator=(
		"${ending_with_us[@]}" "$emulator/lib64/ld-linux-x86-64.so.2"
		--library-path "$emulator/usr/lib/x86_64-linux-gnu"
	)
}

# Sets $run_dir, and removes those of runs that were killed.
make_run_dir()
{
	local lock old

	mkdir -p "$cache/tmp"
	exec {lock}>"$cache/tmp/lock"
	flock "$lock"
	for old in "$cache/tmp"/run.*; do
		[[ ! -d $old ]] || ! flock --nonblock "$old" true || rm -rf "$old"
	done
	run_dir=$(mktemp -d "$cache/tmp/run.XXXXXX")
	exec {run_lock}<"$run_dir"
	flock "$run_lock"
	exec {lock}>&-
}

# The built tree without what only the compiler reads, or qemu/build is writing.
pack_build()
{
	local lock parts=()

	exec {lock}>"$build.lock"
	flock "$lock"
	[[ ! -d $build/src ]] || parts+=(src)
	[[ ! -d $build/modules ]] || parts+=(modules)
	if ((${#parts[@]})); then
		tar -C "$build" -cf "$run_dir/share/build.tar" --sort=name --owner=0 --group=0 \
			--exclude='*.o' --exclude='.*.cmd' --exclude='.*.d' \
			--exclude='*.new' "${parts[@]}"
	fi
	exec {lock}>&-
}

# Whatever happens, the emulator goes (setpriv sees to it if this script is killed).
clean_up_run()
{
	kill_machine
	[[ -z $reader_pid ]] || kill "$reader_pid" 2>/dev/null || true
	save_log
	rm -rf "$run_dir"
}

# Ends and reaps the emulator if it still runs; the shell has nothing to say about it.
kill_machine()
{
	[[ $machine_pid ]] || return 0
	{ kill -KILL "$machine_pid" || true; wait "$machine_pid" || true; } 2>/dev/null
	machine_pid=
}

# Prints what is written to FILE, until the emulator is gone.
follow_file()
{
	exec tail -c +1 -f -s 0.1 --pid="$machine_pid" "$1"
}

# Reads a line from the status port into $word and $value. Its status is 0, 1
# for the end of the machine, or above 128 when the time is up.
# A second at a time: bash 5.2 reaps no child while it reads with a time limit, and to
# follow_file() an emulator that isn't reaped is still there.
read_status()
{
	local part line='' status

	while ((SECONDS < deadline)); do
		status=0
		read -r -t 1 -u "$status_fd" part || status=$?
		line+=$part
		((status > 128)) || break
	done
	read -r word value <<<"$line"
	return "${status:-142}"
}

# What happened when there is no exit status from the command. Does not return.
give_up()
{
	local status=$1
	shift

	save_log
	check_log || true
	say "$*; the end of the kernel log ($log):"
	{ sed 's/^/  emulator: /' "$run_dir/emulator"; tail -n 30 "$log" | sed 's/^/  /'; } >&2 || true
	exit "$status"
}

# Follows the machine to its end; sets $result.
follow()
{
	local word='' value='' start=$EPOCHREALTIME status

	result=
	while status=0; read_status || status=$?; ((status == 0)); do
		case $word in
		ready)
			printf ' %s s\n' "$(elapsed "$start")" >&2
			booting= ;;
		exit)
			result=$value
			# All that's left is to switch off.
			((deadline = SECONDS + 30)) ;;
		fail)
			[[ ! $booting ]] || echo >&2
			give_up "$status_vm_failed" "the machine failed: $value" ;;
		esac
	done
	[[ ! $booting ]] || echo >&2
	if [[ $result ]]; then
		return
	elif ((status > 128)); then
		give_up "$status_timeout" "stopped after $timeout s (--timeout)"
	else
		give_up "$status_vm_failed" "the machine ended before the command did"
	fi
}

elapsed()
{
	local us=$((${EPOCHREALTIME/./} - ${1/./}))

	printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}

parse_run_options()
{
	local name=''

	parallel=0 smp=1 seed=0 memory=2048 timeout=600 extra_arguments='' out=''
	while (($#)); do
		case $1 in
		--smp) smp=${2-} ;;
		--seed) seed=${2-} ;;
		--mt) parallel=${2-} ;;
		--mem) memory=${2-} ;;
		--timeout) timeout=${2-} ;;
		--append) extra_arguments=${2-} ;;
		--name) name=${2-} ;;
		--out) out=${2-} ;;
		--) shift; break ;;
		-*) die "run: unknown option $1; see vm/vm --help" ;;
		*) break ;;
		esac
		shift 2 || die "run: $1 needs a value"
	done
	[[ $parallel =~ ^[0-9]+$ && $smp =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ &&
		$memory =~ ^[1-9][0-9]*$ && $timeout =~ ^[1-9][0-9]*$ ]] ||
		die "run: --smp, --seed, --mt, --mem and --timeout take whole numbers"
	((smp == 1 || !parallel)) || die "run: --smp and --mt exclude each other"
	((smp > 1 || !seed)) || die "run: one CPU has no turns for --seed to vary"
	(($#)) || die "run: no command; see vm/vm --help"
	name=$build_name${host:+-$host}${name:+.$name}
	log=$cache/log/$name.log
	out=${out:-$cache/out/$name}
	command=("$@")
}

# Sets $kernel_arguments.
make_kernel_arguments()
{
	# No time is lost on mitigations. Stalls of this machine are no fault of
	# the emulated one: its clock is trusted, its watchdogs are off, and its
	# timer need not tick while the kernel busily waits for that.
	kernel_arguments="mitigations=off nokaslr tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_timeout=300"
	if ((!parallel)); then
		# The thread that looks for huge pages takes 1 % of the CPU for seconds, the
		# one that watches who uses memory (7.2) 0.01 to 0.04 %, as it comes.
		kernel_arguments+=" norandmaps transparent_hugepage=never damon_stat.enabled=N"
	fi
	[[ $arch != amd64 ]] || kernel_arguments+=" no_timer_check"
	kernel_arguments+=" $extra_arguments"
}

cmd_run()
{
	local mode

	parse_run_options "$@"
	cmd_kernel
	mkdir -p "$out"
	machine_pid='' reader_pid='' booting=1
	make_run_dir
	# Not that of an earlier run, should there be none of this one.
	mkdir -p "$(dirname "$log")"
	: >"$log"
	trap clean_up_run EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM

	prepare_machine
	mkdir "$run_dir/share"
	pack_build
	printf 'exec --%s\n' "$(printf ' %q' "${command[@]}")" >"$run_dir/share/command"
	touch "$run_dir/out" "$run_dir/status"

	make_kernel_arguments
	if ((parallel)); then
		mode="parallel, $parallel CPUs"
		touch "$run_dir/share/parallel"
	else
		mode="deterministic, $smp CPU$( ((smp == 1)) || echo s)"
		((!seed)) || mode+=", seed $seed"
	fi
	mode+=${host:+, $host}
	printf 'vm: booting Debian %s, kernel %s (%s) ...' "$variant" "$kernel" "$mode" >&2
	((deadline = SECONDS + timeout))
	start_machine
	# Not pipes: the machine must not wait for whoever reads.
	follow_file "$run_dir/out" 2>/dev/null &
	reader_pid=$!
	exec {status_fd}< <(follow_file "$run_dir/status")
	follow
	kill_machine
	wait "$reader_pid" || true
	reader_pid=

	collect_from_machine
	save_log
	check_log || ((result)) || result=$status_kernel_warned
	exit "$result"
}
