# 32-bit, no libc: xmm0..7 hold constants, a counted loop, exit status 7.
    .globl _start
_start:
    movups table, %xmm0
    movups table+16, %xmm7
    movl $0x600000, %esi
1:  movl $20, %ecx
2:  decl %ecx
    jnz 2b
    decl %esi
    jnz 1b
    movl $1, %eax
    movl $7, %ebx
    int $0x80
    .data
    .balign 16
table:
    .quad 0x1111111111111111, 0x2222222222222222
    .quad 0x7777777777777777, 0x8888888888888888
