# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bochs as the machine, for its CPU with Intel's virtualization (HOST=intel). Part of
# vm/vm; vm/lib/qemu.sh says what vm/lib/machine.sh expects of this file.
#
# It loads no kernel, and shares no directories: a boot loader gets the kernel from a
# CD, and all else is on disks, which vm/init finds by their names:
#
#   root   the Debian root, a file system
#   run    $run_dir/share and what is in $out, as a tar file
#   back   what comes back, as a tar file: what /out became, and the kernel's log

# shellcheck disable=SC2034,SC2154 # variables of other parts

# Not a dependency of erofs that its module tells: crc32c_generic.
machine_modules=(ata_piix sd_mod crc32c_generic erofs overlay kvm_intel)

[[ $arch = amd64 ]] || die "HOST=intel is for ARCH=amd64 only"
[[ -z $kernel_name ]] || die "HOST=intel boots stock kernels only: KERNEL's have no disks"

prepare_machine()
{
	((!parallel && smp == 1)) || die "run: --mt and --smp are not for HOST=intel: one CPU only"
	find_emulator
	"$here/bochs/build"
	bochs=$cache/build/trixie/bochs/bin
	make_initramfs
	make_root_image
}

# Sets $root_image. What kernels are built from isn't in it.
make_root_image()
{
	local temp

	root_image=$booted.erofs
	[[ ! -e $root_image ]] || return 0
	say "making the image of the root (once)"
	temp=$(mktemp "$run_dir/root.XXXXXX")
	"${in_emulator[@]}" "$emulator/usr/bin/mkfs.erofs" --quiet -U 00000000-0000-0000-0000-000000000000 \
		--exclude-path=usr/src "$temp" "$booted" >/dev/null ||
		die "could not make the image of the root"
	mv "$temp" "$root_image"
}

# Makes $run_dir/boot.iso.
make_boot_image()
{
	local dir=$run_dir/boot lib=$emulator/usr/lib

	# Without IA32_MISC_ENABLE, Linux takes fast strings to be off, all but FSRM. 6.1's
	# memmove() takes that to imply the others, and overruns: see the README.md.
	[[ $suite != bookworm ]] || kernel_arguments+=" clearcpuid=fsrm"
	mkdir -p "$dir/isolinux"
	cp "$lib/ISOLINUX/isolinux.bin" "$lib/syslinux/modules/bios/ldlinux.c32" "$dir/isolinux"
	cp "$kernel_root/boot/vmlinuz-$kernel" "$dir/vmlinuz"
	cp "$initramfs" "$dir/initramfs"
	# - Each line of the log takes 9 ms to go out at 115,200 baud: the whole comes back in
	#   the end, only warnings come at once.
	# - The clock that tells how fast the TSC is has its own idea of time.
	# - Some of the kernel's tests of its ciphers would run beside the first test.
	# - Resets end Bochs as triple faults do; as others do, it would boot again.
	cat >"$dir/isolinux/isolinux.cfg" <<-CONFIG
	DEFAULT linux
	PROMPT 0
	LABEL linux
	 KERNEL /vmlinuz
	 INITRD /initramfs
	 APPEND console=ttyS0,115200 loglevel=5 log_buf_len=16M panic=-1 reboot=t tsc_early_khz=250000 cryptomgr.notests $kernel_arguments
	CONFIG
	# The same each time, down to its dates.
	SOURCE_DATE_EPOCH=0 "${in_emulator[@]}" "$emulator/usr/bin/xorriso" -as mkisofs -quiet -o "$run_dir/boot.iso" \
		-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
		-boot-info-table "$dir" 2>"$run_dir/xorriso" || {
		cat "$run_dir/xorriso" >&2
		die "could not make the image to boot"
	}
}

# Bochs locks images by files beside them, which it leaves behind when it is killed.
make_disks()
{
	ln -s "$root_image" "$run_dir/root.disk"
	cp -a "$out" "$run_dir/share/out"
	tar -C "$run_dir/share" -cf "$run_dir/run.disk" --sort=name --owner=0 --group=0 \
		--mtime=@0 .
	truncate -s 1G "$run_dir/back.disk"
}

# Time is instructions: 250 million a second, as in QEMU. It begins with 2030, later than
# any file, or make would wonder.
# RDRAND and RDSEED give what a seed says that is the time of day: they are left out.
print_configuration()
{
	cat <<-CONFIG
	config_interface: textconfig
	display_library: nogui
	romimage: file="$bochs/bios", options=fastboot
	vgaromimage: file="$bochs/vgabios"
	megs: $memory
	cpu: model=corei7_icelake_u, count=1, ips=250000000, reset_on_triple_fault=0, ignore_bad_msrs=1, exclude_features="rdrand, rdseed"
	clock: sync=none, time0=1893456000
	pci: enabled=1, chipset=i440fx
	vga: extension=none, update_freq=1, realtime=0
	speaker: enabled=0
	boot: cdrom
	ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
	ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
	ata0-master: type=disk, mode=flat, path="$run_dir/root.disk", model="root"
	ata0-slave: type=disk, mode=flat, path="$run_dir/run.disk", model="run"
	ata1-master: type=cdrom, path="$run_dir/boot.iso", status=inserted
	ata1-slave: type=disk, mode=flat, path="$run_dir/back.disk", model="back"
	com1: enabled=1, mode=file, dev="$run_dir/console"
	com2: enabled=1, mode=file, dev="$run_dir/out"
	com3: enabled=1, mode=file, dev="$run_dir/status"
	log: -
	panic: action=fatal
	error: action=ignore
	info: action=ignore
	debug: action=ignore
	CONFIG
}

start_machine()
{
	make_boot_image
	make_disks
	print_configuration >"$run_dir/bochsrc"
	"${in_emulator[@]}" "$bochs/bochs" -q -f "$run_dir/bochsrc" \
		</dev/null >"$run_dir/emulator" 2>&1 &
	machine_pid=$!
}

collect_from_machine()
{
	mkdir "$run_dir/back"
	tar -xmf "$run_dir/back.disk" -C "$run_dir/back" --no-same-owner ||
		die "could not read what the machine gave back"
	find "$out" -mindepth 1 -delete
	cp -dR "$run_dir/back/out/." "$out"
	mv "$run_dir/back/log" "$run_dir/console"
}
