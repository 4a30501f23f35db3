# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest in a stock QEMU with KVM, in the machine of vm/vm.

For programs that throttle it, and read from its memory what it has done. Its process 1
is vm/demo-guest.c, or vm/health-guest.c with the kernel's argument rdinit=/health.
"""
import json
import mmap
import os
import signal
import struct
import subprocess
import time

# How the guest's memory is used, and its counts, see vm/guest.h and vm/demo-guest.c.
RAM_FILE = '/dev/shm/demo-guest'
PAGE = 4096
COUNTS = 128 << 20
COUNTS_SIZE = 256 << 10
COUNT_STRIDE = 64
STEAL, ASKED, ANSWERED = 8, 16, 24
USER_HZ = 100
BASE_MB = 192
DIRTY_MB = 48
VCPU_MB = 64

# As little as possible for the guest's kernel to do at boot, which is slow
# enough.  memmap: the memory of the counts isn't the kernel's.  initcall_blacklist:
# this QEMU machine has no real-time clock, and certificates aren't needed.
GUEST_KERNEL_ARGUMENTS = ' '.join((
    'console=ttyS0 quiet panic=-1 tsc=reliable nokaslr mitigations=off agp=off',
    'initcall_blacklist=cmos_init,load_system_certificate_list',
    f'memmap={COUNTS_SIZE}${COUNTS:#x} counts={COUNTS:#x} dirty_mb={DIRTY_MB}'))

KVM_THROTTLE = '/build/src/tools/kvm-throttle'
CONSOLE = '/tmp/demo-console'


class Failed(Exception):
    """Ends the program; what it says is for the user."""


class Guest:
    """A Linux guest in a stock QEMU, and what its processes have done."""

    def __init__(self, vcpus, kernel_arguments=(), options=(), binary='qemu-system-x86_64'):
        self.vcpus = vcpus
        memory = BASE_MB + VCPU_MB * vcpus
        self.process = subprocess.Popen((
            binary, '-accel', 'kvm',
            '-machine', 'microvm,memory-backend=ram', '-cpu', 'qemu64',
            '-smp', str(vcpus), '-m', str(memory), '-object',
            f'memory-backend-file,id=ram,size={memory}M,mem-path={RAM_FILE},share=on',
            '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none',
            '-serial', f'file:{CONSOLE}',
            '-kernel', '/out/vmlinux', '-initrd', '/out/initramfs.cpio',
            '-append', ' '.join((GUEST_KERNEL_ARGUMENTS, *kernel_arguments)),
            *options))
        self.memory = None

    def counts(self):
        """What each process has done so far: pages that it has dirtied."""
        return [self.word(i * COUNT_STRIDE) for i in range(self.vcpus)]

    def word(self, offset):
        return struct.unpack_from('=Q', self.memory, offset)[0]

    def steal_s(self):
        """The steal time that each CPU says, of a guest with report_steal=1."""
        asked = self.word(ASKED) + 1
        struct.pack_into('=Q', self.memory, ASKED, asked)
        while self.word(ANSWERED) != asked:
            time.sleep(0.1)
            self.check()
        return [self.word(i * COUNT_STRIDE + STEAL) / USER_HZ for i in range(self.vcpus)]

    def check(self):
        if self.process.poll() is not None:
            raise Failed('QEMU has ended')

    def boot(self):
        """Wait until every process has done something."""
        while not self.memory or not all(self.counts()):
            time.sleep(0.1)
            self.check()
            if not self.memory and os.path.exists(RAM_FILE) and \
                    os.path.getsize(RAM_FILE) > COUNTS:
                with open(RAM_FILE, 'rb+') as file:
                    self.memory = mmap.mmap(file.fileno(), PAGE, offset=COUNTS)

    def end(self):
        self.process.kill()
        self.process.wait()
        if os.path.exists(RAM_FILE):
            os.unlink(RAM_FILE)


class Throttle:
    """Keeps a guest throttled while in a `with` block.

    After that, vcpus is what kvm-throttle said of them at its end.
    """

    def __init__(self, guest, percent):
        self.pid = f'--pid={guest.process.pid}'
        self.percent = percent
        self.process = None
        self.vcpus = None

    def status(self):
        """What kvm-throttle says of the VM."""
        answer = subprocess.run((KVM_THROTTLE, 'stat', self.pid, '--json'),
                                stdout=subprocess.PIPE, check=True).stdout
        return list(map(json.loads, answer.splitlines()))

    def in_force(self):
        """The period in seconds, or None if the throttle isn't there yet."""
        for status in self.status():
            if status['holder'] and status['percent'] == self.percent:
                return max(vcpu['period_ns'] for vcpu in status['vcpus']) / 1e9
        return None

    def wait(self):
        while True:
            period = self.in_force()
            if period:
                return period
            if self.process.poll() is not None:
                raise Failed('kvm-throttle has ended')

    def __enter__(self):
        self.process = subprocess.Popen(
            (KVM_THROTTLE, self.pid, '--quiet', '--json', '--interval=1h',
             str(self.percent)), stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate()[0]
        if self.process.returncode:
            raise Failed('kvm-throttle failed')
        self.vcpus = json.loads(said)['vcpus']


def mend_emulator():
    """Keep QEMU's emulation of SVM from deadlocking guests: vm/svm-injection.bpf.c."""
    bpffs = '/sys/fs/bpf'
    subprocess.run(('mount', '-t', 'bpf', 'bpf', bpffs), check=True)
    subprocess.run(('bpftool', 'prog', 'loadall', '/out/svm-injection.bpf.o',
                    f'{bpffs}/svm-injection', 'autoattach'), check=True)


def be_on_time():
    """Woken for a sample, don't wait until the vCPUs have had their turn."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK,
                          os.sched_param(1))
