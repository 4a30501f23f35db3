#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs every measurement of bench/peers/run in the machine of vm/vm.

Writes JSON: a list of what bench/peers/peers has printed, with what it was asked and on
what machine, one measurement a line; what is in the file already stays. Lines that begin
with "bench:" are progress.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = os.path.join(HERE, '../migration'), os.path.join(HERE, '../../vm')

# pylint: disable=wrong-import-position
import linux_guest
import migration

PEERS = './bench/peers/peers'

# Ours throttles the VMM of the bench as the others do, and also QEMU.
OURS, OURS_QEMU = 'kvm_throttle', 'kvm_throttle-qemu'
QEMU, QEMU_VCPU_TIMERS = 'qemu', 'qemu-vcpu-timers'
CGROUPS_VCPU = 'cpu.max-vcpu-100ms', 'cpu.max-vcpu-10ms'
STOPS = 'pause-resume', 'sigstop'
# One guest for all, with QEMU's own throttle last: once cancelled, it may not work again.
HEALTH = ('none', OURS_QEMU) + CGROUPS_VCPU + ('pause-resume-qemu', 'sigstop', QEMU)
ALL = (OURS, OURS_QEMU, QEMU, QEMU_VCPU_TIMERS) + CGROUPS_VCPU + STOPS
QUICK = (OURS, QEMU, CGROUPS_VCPU[0]) + STOPS
CONTENDED = (OURS, QEMU, QEMU_VCPU_TIMERS, CGROUPS_VCPU[0]) + STOPS

VCPU_TIMERS_BINARY = os.path.join(HERE, '../../qemu/bin/qemu-vcpu-timers')

# Hundredths of a percent. At 99.9 %, every one of many vCPUs would have its turn on the
# CPU only once in minutes.
ONE_TARGETS = 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 9500, 9900, 9990
MANY_TARGETS = 2000, 3000, 5000, 7000, 8000, 9000, 9500, 9900
QUICK_TARGETS = 2000, 5000, 9000, 9900
QUICK_MANY_TARGETS = 5000, 9900
HEALTH_TARGETS = 5000, 9000, 9900
SMP_TARGETS = 2000, 5000, 8000, 9000, 9900
QUICK_SMP_TARGETS = 2000, 9900

# vCPUs of a guest that has several CPUs: one for each, and more.
SMP_VCPUS = 4, 22

# Module loaded, and attached to the VM: twice each, the other way round.
IDLE = ((True, True), (True, False), (False, False),
        (False, False), (True, False), (True, True))

# A Linux guest has a network of its own with this machine. What comes back takes a while,
# or nothing would be on its way when a guest stalls.
TAP, ADDRESS, GUEST_ADDRESS = 'tap0', '10.99.0.1', '10.99.0.2'
DELAY = '5ms'
MONITOR = os.path.join(migration.DIRECTORY, 'health.monitor')

# Full speed, for a target.
UNTHROTTLED = 0


def machine():
    """What the figures are of."""
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        vendor = 'Intel' if 'GenuineIntel' in file.read() else 'AMD'
    return {'kernel': os.uname().release, 'vendor': vendor, 'cpus': os.cpu_count()}


def as_text(run):
    """JSON with a line for each measurement: a diff shows which ones changed."""
    run = dict(run)
    results = [json.dumps(result) for result in run.pop('results', ())]
    text = json.dumps(run)
    if results:
        text = text[:-1] + ', "results": [\n  ' + ',\n  '.join(results) + ']}'
    return text


class Bench:
    """Measurements and their results."""

    def __init__(self, total, output, command):
        self.output = output
        self.labels = {'command': command, **machine()}
        self.runs = []
        if os.path.exists(output):
            with open(output, encoding='utf-8') as file:
                self.runs = json.load(file)
        self.done = 0
        self.failed = 0
        self.total = total
        self.guest = None

    def run(self, measure, *arguments, **labels):
        command = [PEERS, measure] + [str(argument) for argument in arguments]
        self.done += 1
        print(f'bench: {self.done} of {self.total}: {" ".join(command[1:])}', flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            self.failed += 1
            print(f'bench: failed, exit status {done.returncode}', flush=True)
            self.end_guest()
            return
        result = json.loads(done.stdout.decode().splitlines()[-1])
        for vcpu in (result.get('meter') or {}).get('vcpus', ()):
            del vcpu['stalls']['histogram']
        self.runs.append({**labels, 'measure': measure, **self.labels, **result})

    def save(self):
        """What there is by now is of use, whatever happens to the rest."""
        with open(self.output, 'w', encoding='utf-8') as file:
            file.write('[\n' + ',\n'.join(map(as_text, self.runs)) + '\n]\n')

    def with_guest(self, measure, peer, *arguments):
        """Arguments of run(), for a Linux guest, which lives on for the next one."""
        if not self.guest:
            self.guest = boot_guest()
        return (measure, peer, self.guest.process.pid, linux_guest.RAM_FILE,
                linux_guest.COUNTS, MONITOR) + arguments

    def end_guest(self):
        if self.guest:
            self.guest.end()
            self.guest = None


def boot_guest():
    """Its clock goes on while QEMU has stopped it, and its timers don't wait for ticks."""
    print('bench: booting a Linux guest', flush=True)
    guest = linux_guest.Guest(
        1, ('rdinit=/health', 'clocksource=tsc', f'host={ADDRESS}', f'address={GUEST_ADDRESS}'),
        ('-cpu', 'qemu64,+arat', '-name', 'health,debug-threads=on',
         '-qmp', f'unix:{MONITOR},server=on,wait=off',
         '-netdev', f'tap,id=net,ifname={TAP},script=no,downscript=no',
         '-device', 'virtio-net-device,netdev=net'),
        os.path.join(migration.DIRECTORY, 'qemu-stock'))
    guest.boot()
    return guest


def accuracy_targets(vcpus, quick):
    if quick:
        return QUICK_MANY_TARGETS if vcpus > 1 else QUICK_TARGETS
    return MANY_TARGETS if vcpus > 1 else ONE_TARGETS


def accuracy(peers, quick):
    for vcpus in (1, 22) if quick else (1, 22, 4):
        for peer in peers:
            yield (('share', peer, 'work', 1, vcpus, 1000 if quick or vcpus > 1 else 2000) +
                   accuracy_targets(vcpus, quick),
                   {'what': 'accuracy', 'peer': peer, 'vcpus': vcpus})


def costs(peers, quick):
    for vcpus in (1, 64) if quick else (1, 4, 22, 64):
        for peer in peers if not quick else (OURS, QEMU) if vcpus == 1 else (OURS,):
            yield (('cost', peer, vcpus, 1500 if quick else 3000, 5000),
                   {'what': 'cost', 'peer': peer, 'vcpus': vcpus})
        yield ('floor', vcpus, 1500 if quick else 3000), {'what': 'floor', 'vcpus': vcpus}


def latencies(peers, quick):
    for vcpus in (1,) if quick else (1, 22):
        for peer in ('none',) + (peers if vcpus == 1 else (OURS, QEMU, CGROUPS_VCPU[0]) + STOPS):
            # To have QEMU throttle anew takes seconds for each vCPU.
            count = 8 if 'qemu' not in peer else 3 if vcpus == 1 and not quick else 1
            yield (('latency', peer, vcpus, UNTHROTTLED if peer == 'none' else 9900, count),
                   {'what': 'latency', 'peer': peer, 'vcpus': vcpus})


def contended(quick):
    for guest in 'lock', 'token':
        for peer in (OURS, 'pause-resume') if quick else CONTENDED:
            # It dirties too little memory for QEMU to throttle it.
            if guest == 'token' and 'qemu' in peer:
                continue
            # Who has the lock when its turn ends is chance.
            ms = 2000 if guest == 'token' else 4000 if quick else 6000
            yield (('share', peer, guest, 1, 4, ms) + ((5000,) if quick else (5000, 9000)),
                   {'what': guest, 'peer': peer, 'vcpus': 4})


def smp_plan(quick):
    """What several CPUs make a difference to."""
    targets = QUICK_SMP_TARGETS if quick else SMP_TARGETS
    for vcpus in SMP_VCPUS:
        for peer in (OURS, QEMU) if quick else ALL:
            yield (('share', peer, 'work', 1, vcpus, 1000) + targets,
                   {'what': 'accuracy', 'peer': peer, 'vcpus': vcpus})
    yield from contended(quick)


def plan(quick):
    """Yields arguments of Bench.run(), and labels for the result."""
    if os.cpu_count() > 1:
        yield from smp_plan(quick)
        return
    peers = QUICK if quick else ALL
    yield from accuracy(peers, quick)
    yield from costs(peers, quick)
    yield from latencies(peers, quick)
    yield from contended(quick)
    for peer in peers:
        yield (('stall', peer, 1, 2000 if quick else 3000, 9900),
               {'what': 'stall', 'peer': peer, 'vcpus': 1})
    for loaded, attached in IDLE:
        yield (('speed', OURS if attached else 'none', 1, 1500 if quick else 3000),
               {'what': 'idle', 'loaded': loaded, 'attached': attached})
    for vms, vcpus in ((1, 64), (32, 2)):
        for peer in (OURS,) if quick else (OURS, QEMU, 'cpu.max-vm-100ms') + STOPS:
            # They don't fit into the machine's memory.
            if peer == QEMU and vms > 1:
                continue
            yield (('share', peer, 'work', vms, vcpus, 2000, 5000, 9000),
                   {'what': 'scale', 'peer': peer, 'vcpus': vcpus, 'vms': vms})
    # The last, as its guest takes time.
    for peer in () if quick else HEALTH:
        yield (('health', peer, 4000) + ((UNTHROTTLED,) if peer == 'none' else HEALTH_TARGETS),
               {'what': 'health', 'peer': peer, 'vcpus': 1})


def prepare():
    """Put all that QEMU needs into memory, so that nothing waits for the disk later."""
    os.makedirs(migration.DIRECTORY, exist_ok=True)
    shutil.copy(os.path.join(HERE, 'firmware.bin'), migration.DIRECTORY)
    migration.into_memory(migration.STOCK, 'qemu-stock')
    if os.path.exists(VCPU_TIMERS_BINARY):
        migration.into_memory(VCPU_TIMERS_BINARY, QEMU_VCPU_TIMERS)
    subprocess.run((PEERS, 'latency', QEMU, '1', '9900', '1'), stdout=subprocess.DEVNULL,
                   check=True)


def prepare_health():
    linux_guest.mend_emulator()
    for command in ('modprobe -a tun sch_netem', f'ip tuntap add {TAP} mode tap',
                    f'tc qdisc add dev {TAP} root netem delay {DELAY}',
                    f'ip address add {ADDRESS}/24 dev {TAP}', f'ip link set {TAP} up'):
        subprocess.run(command.split(), check=True)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='less of everything')
    parser.add_argument('--only', help='only what has this name: accuracy, stall, cost, '
                        'floor, latency, lock, token, scale, idle or health')
    parser.add_argument('--output', required=True)
    return parser.parse_args()


def main():
    options = parse_options()
    runs = [(arguments, labels) for arguments, labels in plan(options.quick)
            if options.only in (None, labels['what'])]
    if not runs:
        print(f'bench: {options.only} is not measured on {os.cpu_count()} CPUs')
        return 0
    command = 'bench/peers/run' + ' --quick' * options.quick + \
        (f' --only {options.only}' if options.only else '')
    bench = Bench(len(runs), options.output, command)
    prepare()
    if any(labels['what'] == 'health' for _, labels in runs):
        prepare_health()
    for arguments, labels in runs:
        subprocess.run(('modprobe', 'kvm_throttle') if labels.get('loaded', True)
                       else ('modprobe', '-r', 'kvm_throttle'), check=True)
        if labels['what'] == 'health':
            arguments = bench.with_guest(*arguments)
        bench.run(*arguments, **labels)
        bench.save()
    bench.end_guest()
    return bench.failed != 0


if __name__ == '__main__':
    sys.exit(main())
