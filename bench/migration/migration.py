# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migrations of the guest in this directory, for tests and measurements.

Starts QEMUs with KVM and that guest, drives them by QMP, and reads what the
guest says of itself from its memory, which is a file: that takes none of its time.

Reading a program from the disk takes time, also in the deterministic machine of vm/vm.
So warm_up() first, and start no programs while time is measured.
"""
import collections
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GUEST = os.path.join(HERE, 'guest.bin')
KVM_THROTTLE = os.path.join(HERE, '../../tools/kvm-throttle')
STOCK = '/usr/bin/qemu-system-x86_64'
PATCHED = os.path.join(HERE, '../../qemu/bin/qemu-system-x86_64')

# Where everything is that has to do with time: in memory.
DIRECTORY = '/tmp/migration'
RAM_DIRECTORY = '/dev/shm'

# As in guest.h.
PAGE = 4096
CONTROL = 0x8000
WORKING_SET = 0x200000
CONTROL_FIELDS = ('vcpus', 'pages', 'workload', 'hot_pages', 'spin', 'busy', 'quiet',
                  'epoch')
REPORT_FIELDS = ('work', 'sweeps', 'errors', 'error_page', 'stall', 'clock', 'epoch',
                 'ready')
REPORTS = 64
REPORT_SIZE = 64
CLOCK_SHIFT = 10
SWEEP, UNIFORM, HOT_SET, BURST, IDLE, DEVICE = range(6)

Report = collections.namedtuple('Report', REPORT_FIELDS)

# How a migration ends.
ENDS = 'completed', 'failed', 'cancelled'

# No answer takes longer, by the machine's clock, however busy it is.
PATIENCE_S = 120


class Failed(Exception):
    """What it says is for the user."""


class Workload:
    """What the guest's vCPUs shall do; see guest.h."""

    def __init__(self, pages, spin=0, kind=SWEEP, hot_pages=1, busy_ms=0, quiet_ms=0):
        self.pages = pages
        self.fields = {
            'pages': pages, 'spin': spin, 'workload': kind, 'hot_pages': hot_pages,
            'busy': to_clock(busy_ms / 1e3), 'quiet': to_clock(quiet_ms / 1e3)}


def tsc_hz():
    """The frequency of this machine's TSC, which is the guest's too."""
    if not tsc_hz.known:
        for line in subprocess.run(('dmesg',), stdout=subprocess.PIPE, check=True,
                                   text=True).stdout.splitlines():
            words = line.split()
            if 'tsc:' in words and words[-1] == 'MHz':
                tsc_hz.known = float(words[-2]) * 1e6
    return tsc_hz.known


tsc_hz.known = None


def to_clock(seconds):
    return int(seconds * tsc_hz()) >> CLOCK_SHIFT


def from_clock(clock):
    return (clock << CLOCK_SHIFT) / tsc_hz()


class Qmp:
    """A connection to a QEMU's monitor."""

    def __init__(self, path, process):
        self.socket = socket.socket(socket.AF_UNIX)
        self.process = process
        wait_until(lambda: self.connect(path), f'a monitor at {path}')
        self.socket.settimeout(PATIENCE_S)
        self.file = self.socket.makefile('rw', encoding='utf-8')
        self.events = []
        self.file.readline()
        self('qmp_capabilities')

    def connect(self, path):
        if self.process.poll() is not None:
            raise Failed('QEMU ended before it had a monitor')
        try:
            self.socket.connect(path)
        except OSError:
            return False
        return True

    def __call__(self, command, **arguments):
        """Underscores in names of arguments stand for hyphens."""
        answer = self.ask(command, **arguments)
        if 'error' in answer:
            raise Failed(f"{command}: {answer['error']['desc']}")
        return answer['return']

    def ask(self, command, **arguments):
        """The answer as it is: an error isn't an exception."""
        arguments = {name.replace('_', '-'): value for name, value in arguments.items()}
        self.file.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise Failed(f'{command}: QEMU has ended')
            answer = json.loads(line)
            if 'event' not in answer:
                return answer
            self.events.append(answer)

    def close(self):
        self.file.close()
        self.socket.close()


class Qemu:
    """A QEMU with the guest, or one that waits for it to come by migration."""

    serial = 0

    def __init__(self, binary, workload, vcpus=1, max_vcpus=None, incoming=False):
        Qemu.serial += 1
        self.name = f'guest-{Qemu.serial}'
        self.binary = binary
        self.workload = workload
        self.vcpus = vcpus
        self.max_vcpus = max_vcpus or vcpus
        self.ram_file = os.path.join(RAM_DIRECTORY, self.name)
        self.log = os.path.join(DIRECTORY, f'{self.name}.log')
        self.address = f'unix:{DIRECTORY}/{self.name}.migration'
        self.process = None
        self.qmp = None
        megabytes = -(-(WORKING_SET + workload.pages * PAGE * self.max_vcpus) >> 20)
        with open(self.ram_file, 'wb+') as file:
            file.truncate(megabytes << 20)
            self.memory = mmap.mmap(file.fileno(), megabytes << 20)
        if not incoming:
            self.set(vcpus=vcpus, epoch=1, **workload.fields)
        monitor = f'{DIRECTORY}/{self.name}.monitor'
        # For another program than this one.
        self.control = f'{DIRECTORY}/{self.name}.control'
        command = [
            binary, '-accel', 'kvm', '-machine', 'q35,memory-backend=ram',
            '-cpu', 'qemu64,+tsc_adjust', '-smp', f'{vcpus},maxcpus={self.max_vcpus}', '-m', f'{megabytes}M',
            '-object', f'memory-backend-file,id=ram,size={megabytes}M,'
            f'mem-path={self.ram_file},share=on',
            '-bios', f'{DIRECTORY}/guest.bin', '-nodefaults', '-no-user-config',
            '-display', 'none', '-qmp', f'unix:{monitor},server=on,wait=off',
            '-qmp', f'unix:{self.control},server=on,wait=off']
        if incoming:
            command += ('-incoming', self.address)
        with open(self.log, 'w', encoding='utf-8') as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        self.qmp = Qmp(monitor, self.process)
        if not incoming:
            wait_until(self.ready, 'the guest to start')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """At once. Returns the seconds until it was gone."""
        start = time.monotonic()
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if os.path.exists(self.ram_file):
            os.unlink(self.ram_file)
        return time.monotonic() - start

    def destination(self, binary=None):
        """A QEMU to migrate this one to; by default the same."""
        return Qemu(binary or self.binary, self.workload, self.vcpus, self.max_vcpus,
                    incoming=True)

    # The guest.

    def set(self, **fields):
        """Change what the guest is to do."""
        for name, value in fields.items():
            struct.pack_into('=I', self.memory, CONTROL + 4 * CONTROL_FIELDS.index(name),
                             value)

    def reports(self):
        return [Report._make(struct.unpack_from(
            f'={len(REPORT_FIELDS)}I', self.memory, CONTROL + REPORTS + i * REPORT_SIZE))
            for i in range(self.vcpus)]

    def ready(self):
        return all(report.ready and report.work for report in self.reports())

    def work(self):
        """Units of work that the vCPUs have done."""
        return sum(report.work for report in self.reports())

    def errors(self):
        return sum(report.errors for report in self.reports())

    def stall_s(self):
        """The longest of any vCPU since forget_stalls()."""
        return max(from_clock(report.stall) for report in self.reports())

    def forget_stalls(self):
        epoch, = struct.unpack_from('=I', self.memory,
                                    CONTROL + 4 * CONTROL_FIELDS.index('epoch'))
        self.set(epoch=epoch + 1)
        wait_until(lambda: all(report.epoch == epoch + 1 for report in self.reports()),
                   'the guest to run')

    def speed(self, seconds=1.0):
        """Units of work per second."""
        start, before = time.monotonic(), self.work()
        time.sleep(seconds)
        end, after = time.monotonic(), self.work()
        if after == before:
            raise Failed('the guest does nothing')
        return (after - before) / (end - start)

    def check_memory(self, sweeps=2):
        """Wait until every vCPU has looked at all of its pages; returns the errors."""
        before = self.reports()
        wait_until(lambda: all(now.sweeps - then.sweeps >= sweeps
                               for now, then in zip(self.reports(), before)),
                   'the guest to check its memory')
        return self.errors()

    # Its migration.

    def info(self):
        return self.qmp('query-migrate')

    def start_migration(self, destination, auto_converge=True, **parameters):
        """Parameters are QEMU's."""
        self.qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'auto-converge', 'state': auto_converge}])
        self.qmp('migrate-set-parameters', **parameters)
        self.qmp('migrate', uri=destination.address)

    def wait_while_migrating(self, condition, what):
        """Condition gets the answer of query-migrate."""
        def is_true():
            info = self.info()
            if info['status'] in ENDS:
                raise Failed(f"waited for {what}, but the migration {info['status']}")
            return condition(info)

        wait_until(is_true, what)

    def wait_for_percentage(self, percent):
        self.wait_while_migrating(
            lambda info: info.get('cpu-throttle-percentage', 0) >= percent,
            f'a throttle of {percent} %')

    def wait_for_end(self, *expected):
        """Returns the last answer of query-migrate."""
        info = {}

        def ended():
            info.update(self.info())
            return info.get('status') in ENDS

        wait_until(ended, 'the migration to end')
        if info['status'] not in (expected or ('completed',)):
            raise Failed(f"the migration {info['status']}: {info.get('error-desc')}")
        return info

    def cancel(self):
        self.qmp('migrate_cancel')
        return self.wait_for_end('cancelled')


class Sink:
    """A destination for one migration that doesn't end: reads, as long as it is to."""

    address = 'fd:sink'

    def __init__(self, source):
        self.socket, other = socket.socketpair()
        with other:
            socket.send_fds(source.qmp.socket, [b' '], [other.fileno()])
            source.qmp('getfd', fdname='sink')
        self.reading = threading.Event()
        self.reading.set()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with self.socket:
            while self.socket.recv(1 << 16):
                self.reading.wait()


def wait_until(condition, what, seconds=PATIENCE_S, interval=0.02):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f'waited {seconds} s in vain for {what}')
        time.sleep(interval)


Sample = collections.namedtuple('Sample', 'seconds percent remaining work')


class Migration:
    """A migration from start to end, or to a limit, and what it was like."""

    INTERVAL_S = 0.1

    def __init__(self, source, destination, limit_s=PATIENCE_S, **settings):
        self.samples = []
        self.methods = set()
        source.forget_stalls()
        self.follow(source, destination, limit_s, settings)
        self.completed = self.info['status'] == 'completed'
        if self.completed:
            # The source doesn't know of a stall that the switch-over has ended.
            self.errors = destination.check_memory()
            self.stall_s = destination.stall_s()
        else:
            self.errors = source.check_memory()
        self.seconds = self.samples[-1].seconds
        self.iterations = self.info['ram']['dirty-sync-count']
        self.downtime_s = self.info.get('downtime', 0) / 1e3
        self.left = self.info['ram']['downtime-bytes']
        self.percent = max(sample.percent for sample in self.samples)
        self.work = self.samples[-1].work

    def follow(self, source, destination, limit_s, settings):
        start, before = time.monotonic(), source.work()
        source.start_migration(destination, **settings)
        while True:
            self.info = source.info()
            now = time.monotonic() - start
            if 'ram' in self.info:
                percent = self.info.get('cpu-throttle-percentage', 0)
                self.samples.append(Sample(now, percent, self.info['ram']['remaining'],
                                           source.work() - before))
                if percent:
                    self.methods.add(self.info.get('cpu-throttle-method'))
            if self.info['status'] in ENDS:
                break
            if now >= limit_s:
                self.stall_s = source.stall_s()
                source.cancel()
                break
            time.sleep(self.INTERVAL_S)


def be_on_time():
    """Woken for a sample, don't wait until the vCPUs have had their turn."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def libraries(binary):
    answer = subprocess.run(('ldd', binary), stdout=subprocess.PIPE, check=True, text=True)
    for line in answer.stdout.splitlines():
        for word in line.split():
            if word.startswith('/'):
                yield word


def into_memory(binary, name):
    """A copy of a QEMU that nothing has to be read for from the disk any more."""
    copy = os.path.join(DIRECTORY, name)
    shutil.copy(binary, copy)
    for library in libraries(binary):
        with open(library, 'rb') as file:
            while file.read(1 << 20):
                pass
    return copy


def prepare():
    """Call it first."""
    os.makedirs(DIRECTORY, exist_ok=True)
    shutil.copy(GUEST, DIRECTORY)


def warm_up(binary):
    """A migration from start to end."""
    workload = Workload(pages=64)
    with Qemu(binary, workload) as source, source.destination() as destination:
        source.start_migration(destination, **{'max_bandwidth': 1 << 30})
        source.wait_for_end()
        destination.check_memory()


def throttled_vms():
    """What kvm-throttle says of the VMs that are throttled; it has a line on itself, too."""
    if not os.path.exists('/dev/kvm_throttle'):
        return []
    answer = subprocess.run((KVM_THROTTLE, 'stat', '--json'), stdout=subprocess.PIPE,
                            check=True)
    return [vm for vm in map(json.loads, answer.stdout.splitlines()) if vm.get('percent')]


def held_by(pid):
    """Does that process have a throttle fd?"""
    try:
        return any(os.readlink(f'/proc/{pid}/fd/{fd}') == 'anon_inode:kvm-throttle'
                   for fd in os.listdir(f'/proc/{pid}/fd'))
    except OSError:
        return False
