"""What the guest does: a shell script for its busybox, written for one run.

The phases are rows of a table. Each is a few programs that run at the same time, each with a family
of constants of its own, so that any register of any snapshot says whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass

TRACING = "/sys/kernel/tracing"
# Component masks: SSE; and AVX; and opmask, ZMM_Hi256, Hi16_ZMM.
WIDTHS = {"xmm": 0x2, "ymm": 0x6, "zmm": 0xE6}


@dataclass(frozen=True)
class Holding:
    """One holder program: what it does while it holds its constants, on which CPU."""

    way: str
    cpu: int
    threads: int = 1


PHASES: dict[str, tuple[Holding, ...]] = {
    "spin": (Holding("spin", 0), Holding("spin", 1)),
    "threads": (Holding("spin", 0, threads=2), Holding("spin", 1, threads=2)),
    "vzeroupper": (Holding("upper", 0), Holding("upper", 1), Holding("spin", 1)),
    "initial": (Holding("init", 0), Holding("init", 1), Holding("spin", 0), Holding("upper", 1)),
    "syscalls": (Holding("getpid", 0), Holding("getpid", 1)),
    "kernel-fpu": (Holding("marker", 0), Holding("marker", 1), Holding("spin", 0),
                   Holding("init", 1)),
    "storm": (Holding("yield", 0), Holding("yield", 0), Holding("yield", 1), Holding("yield", 1)),
    "signals": (Holding("signals", 0), Holding("signals", 1)),
}


@dataclass(frozen=True)
class Wishes:
    """What one run is asked for.

    seconds: guest seconds of each phase. hz: snapshots a second and CPU. mask: the module's
    component mask, None its default. ssp: a phase with a shadow stack, SSP recorded. kernel_hits:
    also a short recording with kernel-mode hits opted in. one_task: also one of a single task
    beside another. widths: also one of each register width. hotplug: CPU 1 off
    and on so often while perf listens. cycles: load, record (guest/listen.c),
    unload so often. soak_s: guest seconds of recording into nothing. recorder: what makes the main
    recording, perf or perfxmm with its source nmi.
    """

    seconds: float = 1.0
    hz: int = 997
    mask: int | None = None
    ssp: bool = False
    kernel_hits: bool = True
    one_task: bool = False
    widths: bool = False
    hotplug: int = 0
    cycles: int = 0
    soak_s: int = 0
    nmi: str = "ipi"
    recorder: str = "perf"


def holders(wishes: Wishes) -> str:
    """The script that `perf record` runs: the phases one after the other."""
    lines = ["#!/bin/sh"]
    family = 1
    for name, holdings in PHASES.items():
        lines.append(f"echo '<3>room: phase {name}' > /dev/kmsg")
        for holding in holdings:
            lines.append(f"/room/holder {family} {holding.way} {wishes.seconds} {holding.cpu} "
                         f"{holding.threads} >> /out/holders.json 2>> /out/holders.txt &")
            family += holding.threads
        lines.append("wait")
    if wishes.ssp:
        lines.append("echo '<3>room: phase shadow' > /dev/kmsg")
        lines += [f"/room/shadow {wishes.seconds} {cpu} >> /out/shadow.json 2>> /out/shadow.txt &"
                  for cpu in (0, 1)]
        lines.append("wait")
    return "\n".join(lines) + "\n"


INIT = """#!/bin/sh
export PATH=/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tracefs tracing /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
echo -1 > /proc/sys/kernel/perf_event_paranoid
# perf reads all kernel symbols several times at its start: twenty seconds in Bochs. It gets those
# that it looks for; without address randomisation the first is true, and nobody looks at the rest.
printf 'ffffffff81000000 T _text\\nffffffff81000000 T _stext\\n' > /tmp/symbols
printf 'ffffffff83000000 T _etext\\nffffffff83000000 D _edata\\n' >> /tmp/symbols
mount --bind /tmp/symbols /proc/kallsyms
MODULE=/sys/kernel/xsaves_nmi
# Through the kernel's log, which adds the time.
say() { echo "<3>room: $*" > /dev/kmsg; }
# state NAME: everything the module says of itself, one file
state() {
    for file in $MODULE/* $MODULE/stats/* /sys/module/marker/parameters/reads; do
        [ -f "$file" ] && { echo "== $file"; cat "$file"; } >> "/out/state-$1" 2>&1
    done
}
load() {
    insmod /room/xsaves_nmi.ko "$@" 2>> /out/trouble.txt && return
    say "insmod refused: $*"
    dmesg | tail -3 > /dev/console
}
record() {
    perf record -q -R -B -N -e xsaves_nmi:snapshot -a "$@" >> /out/perf.txt 2>&1 ||
        say "perf record: $?"
}
record_perfxmm() {
    PYTHONPATH=/room/site python3.11 -m perfxmm record --source nmi -a "$@" \\
        >> /out/perfxmm.txt 2>&1 &
    echo $! > /out/recorder.txt
    wait $! || say "perfxmm record: $?"
}
finish() {
    dmesg > /out/dmesg.txt
    set --
    for file in /out/*; do set -- "$@" "$file" "${file#/out/}"; done
    /room/send "$@" END
    say "could not send"
}
say begins
. /room/plan
say finished
finish
"""


def module_words(wishes: Wishes, *more: str) -> str:
    words = [f"nmi={wishes.nmi}", f"hz={wishes.hz}", *more]
    if wishes.mask is not None:
        words.append(f"mask={wishes.mask:#x}")
    if wishes.ssp:
        words.append("ssp=1")
    return " ".join(words)


def script(wishes: Wishes) -> str:
    """The guest's plan, sourced by its init."""
    words = module_words(wishes)
    lines = [
        "uname -a > /out/uname.txt",
        "cat /proc/cpuinfo > /out/cpuinfo.txt",
        "insmod /room/marker.ko",
        "say loading",
        f"load {words}",
        f"cat {TRACING}/events/xsaves_nmi/snapshot/format > /out/format.txt",
        "state before",
        "say recording",
        "record_perfxmm -o /out/perf.data -- /bin/sh /room/holders"
        if wishes.recorder == "perfxmm" else
        "record -o /out/perf.data -- /bin/sh /room/holders",
        "state after",
        "rmmod xsaves_nmi || say rmmod refused",
    ]
    if wishes.kernel_hits:
        # The trap shown to be one: with the guard off the marker is there to be seen.
        lines += [
            "say with kernel hits",
            f"load {module_words(wishes, 'kernel_hits=1')}",
            "record -o /out/kernel.data -- /room/holder 120 marker 1 0",
            "state kernel",
            "rmmod xsaves_nmi || say rmmod refused",
        ]
    if wishes.one_task:
        # An event of one task: its neighbour on the CPU must not turn up.
        lines += [
            "say one task",
            f"load {words}",
            "/room/holder 118 spin 100000 0 > /dev/null & other=$!",
            "perf record -q -R -B -N -e xsaves_nmi:snapshot -o /out/task.data -- "
            f"/room/holder 119 spin {wishes.seconds} 0 >> /out/task.txt 2>> /out/perf.txt",
            "kill $other",
            "state task",
            "rmmod xsaves_nmi || say rmmod refused",
        ]
    if wishes.widths:
        for name, mask in WIDTHS.items():
            lines += [
                f"load nmi={wishes.nmi} hz={wishes.hz} mask={mask:#x}",
                f"record -o /out/width-{name}.data -- /room/holder 121 spin 0.3 0",
                f"state width-{name}",
                "rmmod xsaves_nmi",
            ]
    if wishes.kernel_hits:
        # No emulator has a hardware PMU: the module must say so and stay out.
        lines += [
            "insmod /room/xsaves_nmi.ko nmi=pmu > /out/pmu.txt 2>&1 && "
            "{ echo loaded >> /out/pmu.txt; rmmod xsaves_nmi; }",
            "dmesg | grep xsaves_nmi: | tail -1 >> /out/pmu.txt",
        ]
    if wishes.hotplug:
        lines += [
            f"say CPU 1 off and on {wishes.hotplug} times",
            f"load {words}",
            "/room/holder 117 spin 1000000 0 > /dev/null & one=$!",
            "/room/holder 116 marker 1000000 1 > /dev/null & two=$!",
            "perf record -q -R -B -N -e xsaves_nmi:snapshot -a -o - -- sleep 1000000 "
            "2>> /out/perf.txt > /tmp/hotplug.data & listener=$!",
            "online=/sys/devices/system/cpu/cpu1/online; good=0; number=0",
            "while [ $(cat $MODULE/running) != 1 ]; do usleep 100000; done",
            "rmmod xsaves_nmi 2>> /out/trouble.txt && say WARNING: unloaded while perf listened",
            f"while [ $number -lt {wishes.hotplug} ]; do",
            "    echo 0 > $online && usleep 200000 && echo 1 > $online && good=$((good + 1))",
            "    usleep 200000; number=$((number + 1))",
            "done",
            "kill -INT $listener; kill $one $two; wait $listener",
            "state hotplug",
            "rmmod xsaves_nmi || say rmmod refused",
            "echo $number $good $(stat -c %s /tmp/hotplug.data) > /out/hotplug.txt",
            "rm /tmp/hotplug.data",
        ]
    if wishes.soak_s:
        lines += [
            f"say soak of {wishes.soak_s} seconds",
            f"load {words}",
            "/room/holder 122 marker 1000000 0 > /dev/null & one=$!",
            "/room/holder 123 yield 1000000 1 > /dev/null & two=$!",
            "/room/holder 124 signals 1000000 1 > /dev/null & three=$!",
            f"perf record -q -R -B -N -e xsaves_nmi:snapshot -a -o - -- sleep {wishes.soak_s} "
            "2>> /out/perf.txt | wc -c > /out/soak-bytes.txt",
            "kill $one $two $three",
            "state soak",
            "rmmod xsaves_nmi || say rmmod refused",
        ]
    if wishes.cycles:
        lines += [
            f"say {wishes.cycles} cycles",
            "/room/holder 125 spin 1000000 0 > /dev/null & one=$!",
            "good=0; number=0; heard=0; silent=0",
            f"while [ $number -lt {wishes.cycles} ]; do",
            f"    insmod /room/xsaves_nmi.ko {words} && got=$(/room/listen 20) && "
            "rmmod xsaves_nmi && good=$((good + 1)) || { rmmod xsaves_nmi; got='0 0'; }",
            "    samples=${got% *}; heard=$((heard + samples)); number=$((number + 1))",
            "    [ $samples = 0 ] && silent=$((silent + 1))",
            "    [ $((number % 100)) = 0 ] && say cycle $number good $good heard $heard",
            "done",
            "kill $one",
            "echo $number $good $heard $silent > /out/cycles-done.txt",
        ]
    return "\n".join(lines) + "\n"
