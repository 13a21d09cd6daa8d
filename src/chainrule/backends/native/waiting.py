"""How threads wait for each other, and what time it is.

    await(number, least, sleeps, looks)    wait until a number has grown
    rouse(number, sleeps)                  wake who waits for it
    clock()                                ticks, to compare how long things took
    processor()                            where this thread runs now, or -1
    leave(processor)                       move this thread to another processor, if it is on this one

Who waits looks again and again for some microseconds, then sleeps until woken: on a busy machine, whoever
spins keeps the core from the very thread it waits for.

An operating system may wake a thread on the core of the thread that woke it, and leave it there though
another core is idle: of two threads that take turns waiting for each other only one ever seems to want to
run. So a thread can leave (on Linux; other systems are trusted to place threads well).
"""

from __future__ import annotations

import sys
from string import Template


def waiting(triple: str) -> str:
    """These functions as LLVM assembly."""
    clock = _CLOCKS.get(triple.partition("-")[0], _NO_CLOCK)
    return _WAITING + clock + _pausing(triple) + _sleeping(triple) + _placing(triple)


def _pausing(triple: str) -> str:
    """A hint to the processor that this thread only waits."""
    machine = triple.partition("-")[0]
    declared, called = _HINTS.get(machine, ("", ""))
    return Template(_PAUSE).substitute(declared=declared, called=called)


def _sleeping(triple: str) -> str:
    """How a thread sleeps while a word has a value, and how it is woken; elsewhere, short naps."""
    numbers = {"x86_64": 202, "aarch64": 98}  # of the system call futex
    number = numbers.get(triple.partition("-")[0])
    if number is not None and "linux" in triple:
        return Template(_FUTEX).substitute(number=number)
    return _NAP_WINDOWS if sys.platform == "win32" else _NAP


def _placing(triple: str) -> str:
    """Which processor a thread is on, and how it moves to another."""
    numbers = {"x86_64": (203, 204), "aarch64": (122, 123)}  # sched_setaffinity, sched_getaffinity
    found = numbers.get(triple.partition("-")[0])
    if found is not None and "linux" in triple:
        return Template(_AFFINITY).substitute(set=found[0], get=found[1])
    return _ANYWHERE


_WAITING = """
; Wait until the number has grown to `least`; returns it. After so many looks sets `sleeps`, and sleeps.
define internal i64 @await(ptr %number.p, i64 %least, ptr %sleeps.p, i64 %looks.most) nounwind noinline {
entry:
  br label %look
look:
  %looks = phi i64 [ 0, %entry ], [ %looks.next, %spin ], [ 0, %sleep ]
  %number = load atomic i64, ptr %number.p seq_cst, align 8
  %reached = icmp uge i64 %number, %least
  br i1 %reached, label %leave, label %wait
wait:
  %patient = icmp ult i64 %looks, %looks.most
  br i1 %patient, label %spin, label %announce
spin:
  call void @pause()
  %looks.next = add i64 %looks, 1
  br label %look
announce:  ; from here on whoever changes the number wakes us; if it was changed before, we do not sleep
  store atomic i32 1, ptr %sleeps.p seq_cst, align 4
  %now = load atomic i64, ptr %number.p seq_cst, align 8
  %changed = icmp uge i64 %now, %least
  br i1 %changed, label %leave, label %sleep
sleep:
  %word = trunc i64 %now to i32
  call void @sleep(ptr %number.p, i32 %word)
  br label %look
leave:
  %result = phi i64 [ %number, %look ], [ %now, %announce ]
  ret i64 %result
}

; Wake those who may sleep until a number changes, which has just been changed.
define internal void @rouse(ptr %number.p, ptr %sleeps.p) nounwind noinline {
entry:
  %may = load atomic i32, ptr %sleeps.p seq_cst, align 4
  %none = icmp eq i32 %may, 0
  br i1 %none, label %leave, label %take
take:
  %before = atomicrmw xchg ptr %sleeps.p, i32 0 seq_cst, align 4
  %mine = icmp ne i32 %before, 0
  br i1 %mine, label %wake, label %leave
wake:
  call void @wake(ptr %number.p)
  br label %leave
leave:
  ret void
}
"""

# Ticks of some nanosecond or less: only how long one thing took beside another is asked. Without a clock
# nobody ever seems to wait.
_CLOCKS = {
    "x86_64": """
declare i64 @llvm.x86.rdtsc()

define internal i64 @clock() nounwind {
  %now = call i64 @llvm.x86.rdtsc()
  ret i64 %now
}
"""
}
_ARM_CLOCK = """
declare i64 @llvm.read_volatile_register.i64(metadata)
!1000 = !{!"cntvct_el0"}

define internal i64 @clock() nounwind {
  %ticks = call i64 @llvm.read_volatile_register.i64(metadata !1000)
  %now = shl i64 %ticks, 6
  ret i64 %now
}
"""  # 24 MHz to 1 GHz
_CLOCKS |= dict.fromkeys(("aarch64", "arm64"), _ARM_CLOCK)
_NO_CLOCK = """
define internal i64 @clock() nounwind {
  ret i64 0
}
"""

_YIELD = ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)")
_HINTS = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": _YIELD,
    "arm64": _YIELD,
}
_PAUSE = """
$declared

define internal void @pause() nounwind {
  $called
  ret void
}
"""

_FUTEX = """
declare i64 @syscall(i64, ...)

define internal void @sleep(ptr %word.p, i32 %word) nounwind {
  ; FUTEX_WAIT | FUTEX_PRIVATE_FLAG: returns at once if the word has changed
  %r = call i64 (i64, ...) @syscall(i64 $number, ptr %word.p, i32 128, i32 %word, ptr null, ptr null, i32 0)
  ret void
}

define internal void @wake(ptr %word.p) nounwind {
  ; FUTEX_WAKE | FUTEX_PRIVATE_FLAG, everybody
  %r = call i64 (i64, ...) @syscall(i64 $number, ptr %word.p, i32 129, i32 65535, ptr null, ptr null, i32 0)
  ret void
}
"""

_NAP = """
declare i32 @usleep(i32)

define internal void @sleep(ptr %word.p, i32 %word) nounwind {
  %r = call i32 @usleep(i32 50)
  ret void
}

define internal void @wake(ptr %word.p) nounwind {
  ret void
}
"""

_NAP_WINDOWS = _NAP.replace("declare i32 @usleep(i32)", "declare void @Sleep(i32)").replace(
    "%r = call i32 @usleep(i32 50)", "call void @Sleep(i32 0)"
)

_AFFINITY = """
declare i32 @sched_getcpu()

define internal i64 @processor() nounwind {
  %here = call i32 @sched_getcpu()
  %number = sext i32 %here to i64
  ret i64 %number
}

; Without this processor among those that the thread may use, the system moves it; then it is allowed again.
; If it is the only one, the system refuses, and the thread stays.
define internal void @leave(i64 %processor) nounwind noinline {
entry:
  %allowed = alloca [1024 x i8], align 8
  %bytes = call i64 (i64, ...) @syscall(i64 $get, i32 0, i64 1024, ptr %allowed)
  %eighth = lshr i64 %processor, 3
  %within = icmp slt i64 %eighth, %bytes
  br i1 %within, label %look, label %stay
look:
  %byte.p = getelementptr i8, ptr %allowed, i64 %eighth
  %byte = load i8, ptr %byte.p
  %low = and i64 %processor, 7
  %low.8 = trunc i64 %low to i8
  %bit = shl i8 1, %low.8
  %none = xor i8 %bit, -1
  %others = and i8 %byte, %none
  %mine = icmp ne i8 %others, %byte
  br i1 %mine, label %move, label %stay
move:
  store i8 %others, ptr %byte.p
  %moved = call i64 (i64, ...) @syscall(i64 $set, i32 0, i64 %bytes, ptr %allowed)
  store i8 %byte, ptr %byte.p
  %back = call i64 (i64, ...) @syscall(i64 $set, i32 0, i64 %bytes, ptr %allowed)
  br label %stay
stay:
  ret void
}
"""

_ANYWHERE = """
define internal i64 @processor() nounwind {
  ret i64 -1
}

define internal void @leave(i64 %processor) nounwind {
  ret void
}
"""
