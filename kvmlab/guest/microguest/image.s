# The lab guest: a 64 KiB ROM that is its own firmware and its own operating system.
#
# QEMU maps it where a PC's BIOS lies. The first vCPU (BSP) builds page tables and interrupt table in RAM and wakes the
# others; each vCPU then does, over and over, the work whose number the host wrote into its slot. Host and guest share
# the RAM: what stands below as the memory map is the whole interface, and page.py reads these very names from this file.
#
# RAM survives a reset of the virtual machine. A boot therefore takes the work and the counters as it finds them and
# counts itself: some KVM back ends reset a guest that leaves ring 3 (see C_BOOTS).
#
#   as --64 -o image.o image.s && ld -Ttext=0xF0000 --oformat binary -e rom -o image.bin image.o

        .intel_syntax noprefix

# ---- Memory map: addresses in guest RAM (4 MiB)
        .set CTRL,      0x001000        # control page, one for the guest
        .set IDT,       0x002000        # 256 gates
        .set PML4,      0x003000        # page tables: PML4, PDPT, two page directories
        .set USER,      0x008000        # the code that runs in ring 3, copied here from the ROM
        .set SLOTS,     0x100000        # one slot a vCPU, at SLOTS + APIC id * SLOT_SIZE
        .set SLOT_SIZE, 0x1000

# ---- Control page: offsets from CTRL
        .set C_MAGIC,   0x00            # u64 "KVMLAB01" once the first vCPU is up
        .set C_BOOTS,   0x08            # u32 starts of this image since power-on: 1 + survived resets

# ---- Slot: offsets from the vCPU's slot.                                    w: written by the host, r: by the guest
        .set S_ALIVE,   0x00            # r u32 1 once this vCPU takes work
        .set S_APIC,    0x04            # r u32 its APIC id
        .set S_WORK,    0x08            # w u32 the work it should do
        .set S_ACK,     0x0c            # r u32 the work it does
        .set S_PANIC,   0x20            # r u32 1 + vector of the exception that stopped it
        .set S_ERROR,   0x24            # r u32 the exception's error code
        .set S_RIP,     0x28            # r u64 where it happened
        .set S_CR2,     0x30            # r u64 the address it could not reach, for a page fault
        .set S_TURNS,   0x40            # r u64[16] turns done, by work
        .set S_GDT,     0x100           # this vCPU's own descriptors: one TSS each
        .set S_GDTR,    0x150
        .set S_TSS,     0x180
        .set S_FAULT,   0xc00           # top of the stack for exceptions
        .set S_TOP,     0x1000          # top of the stack

# ---- Work
        .set W_IDLE,    0               # halted; one turn a wake-up, by a timer of 20 ms
        .set W_SPIN,    1               # busy in ring 3; one turn is 10,000 rounds of two instructions

        .set TURN,      10000
        .set TICK_NS,   20000000        # the APIC timer of QEMU and KVM counts nanoseconds
        .set TIMER,     0x40            # interrupt vectors
        .set SPURIOUS,  0xff
        .set LAPIC,     0xfee00000

        .section .text
        .globl rom

# ---- 16 bit: where the BSP comes from the reset vector, and the others from their start-up IPI (vector 0xF0)
rom:    .code16
        cli
        cld
        .byte 0x2e, 0x66, 0x0f, 0x01, 0x16      # lgdt cs:[boot_gdtr], 32-bit operand
        .word boot_gdtr - rom
        mov eax, cr0
        or  al, 1                       # protected mode
        and eax, 0x9fffffff             # caches on
        mov cr0, eax
        .byte 0x66, 0xea                # ljmp 0x30:entry32
        .long entry32
        .word 0x30

# ---- 32 bit: page tables (by the BSP), long mode
        .code32
entry32:
        mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov ecx, 0x1b                   # IA32_APIC_BASE: bit 8 says "I am the BSP"
        rdmsr
        mov esi, eax
        test esi, 0x100
        jz  2f
        mov dword ptr [PML4], PML4 + 0x1007             # present, writable, user
        mov dword ptr [PML4 + 0x1000], PML4 + 0x2007    # the first GiB
        mov dword ptr [PML4 + 0x1018], PML4 + 0x3007    # the fourth
        mov dword ptr [PML4 + 0x2000], 0x000087         # 2 MiB pages: RAM and ROM below 4 MiB,
        mov dword ptr [PML4 + 0x2008], 0x200087
        mov dword ptr [PML4 + 0x3000 + 503 * 8], LAPIC + 0x87
2:      mov eax, cr4
        or  eax, 0x20                   # PAE
        mov cr4, eax
        mov eax, PML4
        mov cr3, eax
        mov ecx, 0xc0000080             # EFER: LME, and SCE for SYSRET
        rdmsr
        or  eax, 0x101
        wrmsr
        mov eax, cr0
        or  eax, 0x80000000             # paging
        mov cr0, eax
        .byte 0xea                      # ljmp 0x08:entry64
        .long entry64
        .word 0x08

# ---- 64 bit: every vCPU finds its slot (rbp, for ever) and builds its descriptors there
        .code64
entry64:
        mov eax, 1
        cpuid
        shr ebx, 24
        mov ebp, ebx
        imul ebp, ebp, SLOT_SIZE
        add ebp, SLOTS
        lea rsp, [rbp + S_TOP]
        mov [rbp + S_APIC], ebx
        mov dword ptr [rbp + S_ACK], 0xffffffff
        mov dword ptr [rbp + S_PANIC], 0
        call own_descriptors
        test esi, 0x100
        jz  start_vcpu
        call interrupt_table
        call wake_others
start_vcpu:
        lidt [idtr]
        mov r8d, LAPIC
        mov dword ptr [r8 + 0x0f0], 0x100 + SPURIOUS    # APIC on
        mov dword ptr [r8 + 0x350], 0x10000             # LINT0 masked
        mov dword ptr [r8 + 0x360], 0x00400             # LINT1 is NMI
        mov dword ptr [r8 + 0x3e0], 0xb                 # timer counts every nanosecond,
        mov dword ptr [r8 + 0x320], 0x20000 + TIMER     # again and again
        mov dword ptr [rbp + S_ALIVE], 1

# ---- The loop: look for other work, do one piece of it. Interrupts are on only while halted.
next:   mov eax, [rbp + S_WORK]
        cmp eax, [rbp + S_ACK]
        je  1f
        mov [rbp + S_ACK], eax
        xor edx, edx
        cmp eax, W_SPIN
        je  2f
        mov edx, TICK_NS
2:      mov [r8 + 0x380], edx
1:      cmp eax, W_SPIN
        je  spin

idle:   sti
        hlt                             # the timer's interrupt goes on at irq_timer
        jmp next

irq_timer:                              # IF is off again; the frame is dropped: KVM's emulator has no IRET
        mov dword ptr [r8 + 0x0b0], 0   # end of interrupt
        inc qword ptr [rbp + S_TURNS + 8 * W_IDLE]
ring0:
irq_spurious:
        lea rsp, [rbp + S_TOP]
        jmp next

spin:   mov ecx, USER
        mov r11d, 0x3002                # flags of ring 3: no interrupts, I/O allowed
        sysretq
user_spin:                              # runs at USER, in ring 3: guest mode and nothing else
        mov esi, TURN
1:      dec esi
        jnz 1b
        inc qword ptr [rbp + S_TURNS + 8 * W_SPIN]
        cmp dword ptr [rbp + S_WORK], W_SPIN
        je  user_spin
user_leave:                             # back to ring 0 by a fault: some nested KVM handles neither SYSCALL nor INT here
        ud2
user_end:

# ---- Set-up, once a vCPU
own_descriptors:                        # GDT and TSS in the slot; exceptions get their own stack
        mov edx, esi
        mov esi, offset gdt
        lea edi, [rbp + S_GDT]
        mov ecx, 7
        rep movsq
        mov esi, edx
        lea eax, [rbp + S_TSS]
        mov ecx, eax
        shl ecx, 16
        or  ecx, 0x67
        mov [rdi], ecx                  # the TSS descriptor: limit, base, type
        mov ecx, eax
        shr ecx, 16
        and ecx, 0xff
        and eax, 0xff000000
        lea eax, [rax + rcx + 0x8900]
        mov [rdi + 4], eax
        mov qword ptr [rdi + 8], 0
        lea eax, [rbp + S_FAULT]
        mov [rbp + S_TSS + 0x04], rax   # rsp0
        mov [rbp + S_TSS + 0x24], rax   # ist1
        mov dword ptr [rbp + S_TSS + 0x64], 0x680000    # no I/O bitmap
        lea eax, [rbp + S_GDT]
        mov word ptr [rbp + S_GDTR], 0x47
        mov [rbp + S_GDTR + 2], rax
        lgdt [rbp + S_GDTR]
        mov eax, 0x38
        ltr ax
        mov ecx, 0xc0000081             # STAR: SYSRET takes ring 3's selectors from 0x18 on
        xor eax, eax
        mov edx, 0x001b0008
        wrmsr
        ret

# ---- Set-up, by the BSP
interrupt_table:
        mov al, 0xff                    # both old interrupt controllers masked
        out 0x21, al
        out 0xa1, al
        mov edi, IDT
        xor ecx, ecx
1:      mov edx, 0x8e00                 # interrupt gate
        mov eax, ecx
        shl eax, 4
        add eax, offset exceptions
        inc edx                         # exceptions on stack 1
        cmp ecx, 32
        jb  2f
        dec edx
        mov eax, offset irq_spurious
        cmp ecx, TIMER
        jne 2f
        mov eax, offset irq_timer
2:      mov [rdi], ax
        mov word ptr [rdi + 2], 0x08
        mov [rdi + 4], dl               # stack number
        mov [rdi + 5], dh               # type
        shr eax, 16
        mov [rdi + 6], ax
        mov qword ptr [rdi + 8], 0
        add edi, 16
        inc ecx
        cmp ecx, 256
        jb  1b
        mov edx, esi
        mov esi, offset user_spin
        mov edi, USER
        mov ecx, offset user_end - user_spin
        rep movsb
        mov esi, edx
        ret

wake_others:
        inc dword ptr ds:[CTRL + C_BOOTS]
        mov r8d, LAPIC
        mov dword ptr [r8 + 0x0f0], 0x100 + SPURIOUS
        mov dword ptr [r8 + 0x300], 0x000c4500          # INIT to all but me, then twice start-up at 0xF0 << 12
        mov dword ptr [r8 + 0x300], 0x000c46f0
        mov dword ptr [r8 + 0x300], 0x000c46f0
        mov rax, 0x313042414c4d564b                     # "KVMLAB01"
        mov ebx, CTRL + C_MAGIC
        mov [rbx], rax
        ret

# ---- An exception stops its vCPU and leaves word of it, but for the one that ring 3 leaves by.
# Stack: vector, error code, rip, ...
panic:  cmp qword ptr [rsp + 16], USER + (user_leave - user_spin)
        je  ring0
        mov eax, 1
        cpuid
        shr ebx, 24
        imul ebp, ebx, SLOT_SIZE
        add ebp, SLOTS
        mov rax, [rsp + 8]
        mov [rbp + S_ERROR], eax
        mov rax, [rsp + 16]
        mov [rbp + S_RIP], rax
        mov rax, cr2
        mov [rbp + S_CR2], rax
        mov rax, [rsp]
        inc eax
        mov [rbp + S_PANIC], eax
1:      cli
        hlt
        jmp 1b

        .p2align 4
exceptions:                             # 16 bytes each
        .set v, 0
        .rept 32
        .if (v != 8) && (v < 10 || v > 14) && (v != 17) && (v != 21) && (v != 29) && (v != 30)
        push 0                          # for the others the CPU pushes an error code
        .endif
        push v
        jmp panic
        .p2align 4, 0x90
        .set v, v + 1
        .endr

        .p2align 3
gdt:    .quad 0
        .quad 0x00af9b000000ffff        # 08 kernel code, 64 bit
        .quad 0x00cf93000000ffff        # 10 kernel data
        .quad 0                         # 18 (what SYSRET adds 8 and 16 to)
        .quad 0x00cff3000000ffff        # 20 user data
        .quad 0x00affb000000ffff        # 28 user code, 64 bit
        .quad 0x00cf9b000000ffff        # 30 kernel code, 32 bit; 38 is the TSS
boot_gdtr:
        .word 0x37
        .quad gdt
idtr:   .word 0xfff
        .quad IDT

        .org 0xfff0                     # the reset vector: ljmp F000:0000
        .byte 0xea, 0, 0, 0, 0xf0
        .org 0x10000
