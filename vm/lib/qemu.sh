# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# QEMU as the machine. Part of vm/vm; what vm/lib/machine.sh expects of this file is
# all that it knows of an emulator:
#
# machine_modules   what the kernel needs to find its root, and KVM.
# prepare_machine   gets the emulator, and makes what it boots that lasts for more than
#                   one run.
# start_machine     starts it in the background, with all of $run_dir/share; sets
#                   $machine_pid. It writes to files in $run_dir: what the kernel says
#                   to "console", what the command prints to "out", vm/init's lines to
#                   "status", complaints of its own to "emulator".
# collect_from_machine
#                   after its end: gets what isn't in $out yet, and the kernel's log.
#
# Nothing may come in from outside that is not the same in the next run, or happens
# when the host gets round to it: see vm/qemu/README.md.

# shellcheck disable=SC2034,SC2154 # variables of other parts

machine_modules=(virtio_pci virtio_console 9p 9pnet_virtio overlay kvm_amd)

# What the architectures differ in.
case $arch in
amd64)
	qemu='qemu-system-x86_64'
	machine=pc cpu=max,+svm console=ttyS0 icount=2
	# KVM insists on it there. It is true: the TSC is the machine's clock.
	[[ $flavour != rt ]] || cpu+=,+invtsc,x-force-features=on
	# pc describes its interrupts by a program. Kernels that look for mistakes
	# take longer for it than ACPI waits, 30 s, and try it four times.
	[[ -z $kernel_name ]] || machine=q35 ;;
arm64)
	qemu='qemu-system-aarch64'
	machine=virt,virtualization=on,gic-version=3 cpu=max,pauth-impdef=on console=ttyAMA0
	# A faster CPU: what VMRUN does in one instruction takes hundreds there.
	icount=1 ;;
esac

# The program is one that keeps CPUs in lockstep, or the root's own. Races that QEMU 7.2
# has when code is patched on parallel CPUs are mended in trixie's.
prepare_machine()
{
	find_emulator
	if ((parallel)); then
		qemu_program=$emulator/usr/bin/$qemu
	else
		build_emulator
	fi
	make_initramfs
}

# Sets $qemu_program to one with the patches of vm/qemu; builds it if it isn't there.
build_emulator()
{
	local lock dir=$cache/build/trixie/qemu-emulator

	mkdir -p "$dir"
	exec {lock}>"$dir/lock"
	flock "$lock"
	if [[ $(cat "$dir/$qemu.key" 2>/dev/null) != "$(emulator_key)" ]]; then
		say "building the emulator (once; about 4 minutes on two cores)"
		rm -f "$dir/$qemu.key"
		in_trixie "$project/qemu/build" emulator "$qemu" || die "could not build the emulator"
		emulator_key >"$dir/$qemu.key"
	fi
	exec {lock}>&-
	qemu_program=$dir/bin/$qemu
}

emulator_key()
{
	cat "$project/qemu/build" "$here"/qemu/*.patch | sha256sum | cut -c1-12
}

start_machine()
{
	local sharing=security_model=none,multidevs=remap
	# shellcheck disable=SC2054 # QEMU's commas
	local arguments=(
		-nodefaults -no-user-config -display none -no-reboot
		-machine "$machine" -cpu "$cpu" -m "$memory"
		-kernel "$kernel_root/boot/vmlinuz-$kernel" -initrd "$initramfs"
		-append "console=$console ignore_loglevel panic=-1 $kernel_arguments"
		-chardev "file,id=console,path=$run_dir/console" -serial chardev:console
		-device virtio-serial-pci,ioeventfd=off
		-chardev "file,id=out,path=$run_dir/out" -device virtserialport,name=out,chardev=out
		-chardev "file,id=status,path=$run_dir/status"
		-device virtserialport,name=status,chardev=status
	)

	# shellcheck disable=SC2054
	if ((parallel)); then
		arguments+=(-accel tcg,thread=multi -smp "$parallel")
	else
		# The date is later than that of any file, or make would wonder.
		sharing+=,deterministic=on
		arguments+=(-accel tcg,thread=single -smp "$smp"
			-icount "shift=$icount,sleep=off,lockstep=on,seed=$seed"
			-seed 1 -rtc base=2030-01-01,clock=vm)
	fi
	share root "$booted" ,readonly=on
	share run "$run_dir/share" ,readonly=on
	share out "$out"
	[[ ! $inside ]] || share source "$root/usr/src" ,readonly=on

	"${in_emulator[@]}" "$qemu_program" \
		-L "$emulator/usr/share/qemu" -L "$emulator/usr/share/seabios" "${arguments[@]}" \
		</dev/null >"$run_dir/emulator" 2>&1 &
	machine_pid=$!
}

# All is there already.
collect_from_machine()
{
	:
}

# share TAG DIR OPTIONS: adds a 9p share to start_machine's arguments.
share()
{
	arguments+=(
		-fsdev "local,id=$1,path=${2//,/,,},$sharing${3-}"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1,ioeventfd=off"
	)
}
