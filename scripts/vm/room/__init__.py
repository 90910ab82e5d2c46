"""The machine room: unmodified distribution kernels in emulators, and what their registers held.

packages   Debian packages by a private apt, nothing installed
roots      unpacked packages as a place to build and run in
kernels    which kernel comes from which suite
emulators  QEMU and Bochs as command lines; building Bochs
build      the kernel modules and the guest's programs
image      initial file system and boot medium
wire       how files leave the guest
plan       what the guest does, phase by phase
truth      every register against what the program held
figures    what a run measured, as rows and JSON
"""
