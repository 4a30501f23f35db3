# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# QEMU as the machine. Part of vm/vm; what vm/lib/machine.sh expects of this file is
# all that it knows of an emulator:
#
# prepare_machine   gets the emulator, and makes what it boots that lasts for more than
#                   one run. Sets $console, the kernel's name of its serial port.
# start_machine     starts it in the background, with all of $run_dir/share; sets
#                   $machine_pid. In $run_dir, it writes what the kernel says to the
#                   file "console", what the command prints to the pipe "out", vm/init's
#                   lines to the pipe "status", which ends when the emulator does, and
#                   complaints of its own to the file "emulator".

# shellcheck disable=SC2034,SC2154 # variables of other parts

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

prepare_machine()
{
	find_emulator
	make_initramfs
}

# Sets $emulator, the root that QEMU is in: trixie's, whatever is booted. Races
# that QEMU 7.2 has when code is patched on parallel CPUs are mended in 10.
find_emulator()
{
	emulator=$(SUITE=trixie FLAVOUR='' ARCH=amd64 KERNEL='' EXPORTS='' bash "$here/vm" _root)
	exec {emulator_lock}<"$emulator"
	flock --shared "$emulator_lock"
}

# Starts QEMU in the background. Its standard output is the status port, so
# that the reader sees the end of file when it ends; descriptor 3 is what the
# command prints.
start_machine()
{
	# shellcheck disable=SC2054 # QEMU's commas
	local arguments=(
		-nodefaults -no-user-config -display none -no-reboot
		-machine "$machine" -cpu "$cpu" -m "$memory"
		-kernel "$kernel_root/boot/vmlinuz-$kernel" -initrd "$initramfs"
		-append "console=$console ignore_loglevel panic=-1 $kernel_arguments"
		-chardev "file,id=console,path=$run_dir/console" -serial chardev:console
		-device virtio-serial-pci
		-chardev file,id=out,path=/dev/fd/3 -device virtserialport,name=out,chardev=out
		-chardev file,id=status,path=/dev/fd/1 -device virtserialport,name=status,chardev=status
	)

	# shellcheck disable=SC2054
	if ((cpus)); then
		arguments+=(-accel tcg,thread=multi -smp "$cpus")
	else
		# -seed, clock=vm: nor may random numbers and the date vary.
		arguments+=(-accel tcg,thread=single -icount "shift=$icount,sleep=off" -smp 1
			-seed 1 -rtc clock=vm)
	fi
	share root "$booted" ,readonly=on
	share run "$run_dir/share" ,readonly=on
	share out "$out"
	[[ ! $inside ]] || share source "$root/usr/src" ,readonly=on

	"${user_namespace[@]}" setpriv --pdeathsig KILL -- \
		"$emulator/lib64/ld-linux-x86-64.so.2" \
		--library-path "$emulator/usr/lib/x86_64-linux-gnu" "$emulator/usr/bin/$qemu" \
		-L "$emulator/usr/share/qemu" -L "$emulator/usr/share/seabios" "${arguments[@]}" \
		</dev/null 3>"$run_dir/out" >"$run_dir/status" 2>"$run_dir/emulator" &
	machine_pid=$!
}

# share TAG DIR OPTIONS: adds a 9p share to start_machine's arguments.
share()
{
	arguments+=(
		-fsdev "local,id=$1,path=${2//,/,,},security_model=none,multidevs=remap${3-}"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1"
	)
}
