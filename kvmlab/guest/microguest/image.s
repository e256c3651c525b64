# The lab guest: a 64 KiB ROM that is its own firmware and its own operating system.
#
# QEMU maps it where a PC's BIOS lies. The first vCPU (BSP) builds page tables and interrupt table in RAM and wakes the
# others; each vCPU then does, over and over, the work whose number the host wrote into its slot. Host and guest share
# the RAM: what stands below as the memory map is the whole interface, and page.py's names and numbers are held against it.
#
# The host writes what it wants into a slot, raises S_CALL, and, for a vCPU that is halted, sends a byte down the serial
# line: its interrupt goes to all vCPUs, so that nobody needs a timer to look for news.
#
# RAM survives a reset of the virtual machine. A boot therefore takes the work and the counters as it finds them and
# counts itself: some KVM back ends reset a guest that leaves ring 3 (see C_BOOTS).
#
# A processor without long mode (qemu32) stays in 32-bit code at the end of this file: it idles, spins and answers CPUID.
#
#   as --64 -o image.o image.s && ld -Ttext=0xF0000 --oformat binary -e rom -o image.bin image.o

        .intel_syntax noprefix

# ---- Memory map: addresses in guest RAM (32 MiB)
        .set CTRL,      0x001000        # control page, one for the guest
        .set IDT,       0x002000        # 256 gates
        .set PML4,      0x003000        # page tables: PML4, PDPT, two page directories
        .set USER,      0x008000        # the code that runs in ring 3, copied here from the ROM
        .set SLOTS,     0x100000        # one slot a vCPU, at SLOTS + APIC id * SLOT_SIZE
        .set SLOT_SIZE, 0x1000
        .set AREA,      0x400000        # what the work "memory" walks through, and "device" fills
        .set AREA_KIB,  28672

# ---- Control page: offsets from CTRL
        .set C_MAGIC,   0x00            # u64 "KVMLAB02" once the first vCPU is up
        .set C_BOOTS,   0x08            # u32 starts of this image since power-on: 1 + survived resets
        .set C_BITS,    0x0c            # u32 64, or 32 on a processor without long mode
        .set C_TICKET,  0x40            # u32 the lock: the next ticket (a cache line of its own),
        .set C_SERVING, 0x80            # u32 and the ticket whose turn it is

# ---- Slot: offsets from the vCPU's slot.                                    w: written by the host, r: by the guest
        .set S_ALIVE,   0x00            # r u32 1 once this vCPU takes work
        .set S_APIC,    0x04            # r u32 its APIC id
        .set S_ACK,     0x08            # r u32 the work it does
        .set S_SEEN,    0x0c            # r u32 the call it last saw
        .set S_CALL,    0x10            # w u32 raised by one whenever something below has changed
        .set S_WORK,    0x14            # w u32 the work it should do
        .set S_PARAM,   0x18            # w u32 its parameter
        .set S_ASK,     0x1c            # w u32 number of a list of questions: what does CPUID say? (see S_LEAVES)
        .set S_COUNT,   0x20            # w u32 questions in it, 1 to LEAVES
        .set S_TOLD,    0x28            # r u32 the list that was answered last
        .set S_PANIC,   0x40            # r u32 1 + vector of the exception that stopped it
        .set S_ERROR,   0x44            # r u32 the exception's error code
        .set S_RIP,     0x48            # r u64 where it happened
        .set S_CR2,     0x50            # r u64 the address it could not reach, for a page fault
        .set S_IPIS,    0x58            # r u64 interrupts that other vCPUs sent it
        .set S_TSC,     0x60            # r u64 time stamp at its last turn of "spin"
        .set S_GAP_MAX, 0x68            # r u64 longest time between two turns, since it took up its work
        .set S_GAP_SUM, 0x70            # r u64 sum of all that were longer than GAP, since power-on
        .set S_GAPS,    0x78            # r u64 how many
        .set S_STEAL,   0x80            # r KVM's steal record: u64 nanoseconds, and 56 bytes more
        .set S_STEALS,  0xc0            # r u32 1 if KVM writes it
        .set S_TURNS,   0x100           # r u64[16] turns done, by work
        .set S_BALL,    0x180           #   u32 what two vCPUs pass to and fro (a cache line of its own)
        .set S_DMA,     0x1c0           #   what is asked of QEMU's fw_cfg device
        .set S_BUDGET,  0x1d0           # w u64 time stamp ticks that it may execute in each period of "duty"
        .set S_USED,    0x1d8           # r u64 and has, in this one
        .set S_GDT,     0x200           # this vCPU's own descriptors: one TSS each
        .set S_GDTR,    0x250
        .set S_TSS,     0x280
        .set S_LEAVES,  0x300           # LEAVES questions: w u32 leaf, u32 subleaf, r u32[4] eax, ebx, ecx, edx
        .set S_TAIL,    0x900           # r u32[BUCKETS] times between two turns of "spin" or "duty": how many were how long,
                                        #   four buckets an octave: bucket n is (4 + n % 4) << (10 + n / 4) ticks or more
        .set S_FAULT,   0xc00           # top of the stack for exceptions
        .set S_TOP,     0x1000          # top of the stack

# ---- Work: what one turn of it is                                                         parameter
        .set W_IDLE,    0               # halted; a turn is a wake-up
        .set W_SPIN,    1               # ring 3: 10,000 rounds of two instructions
        .set W_KERNEL_SPIN, 2           # ring 0: 1,000 rounds of two instructions
        .set W_CPUID,   3               # CPUID: an exit served in the kernel
        .set W_MSR,     4               # RDMSR of IA32_APIC_BASE: another one
        .set W_PORT_IO, 5               # OUT to port 0x80: an exit served by QEMU
        .set W_MMIO,    6               # a read where no RAM is: another one
        .set W_MEMORY,  7               # ring 3: 1,024 cache lines of a working set                KiB of it
        .set W_LOCK,    8               # ring 3: take a ticket lock, hold it, give it back         rounds held
        .set W_IPI,     9               # interrupt another vCPU and wait until it says so          its APIC id
        .set W_PING_PONG, 10            # ring 3: wait for the ball, pass it on                     2 * APIC id of the ball's slot + side
        .set W_DEVICE,  11              # have QEMU fill memory through its fw_cfg device           KiB
        .set W_STOP,    12              # halted for good
        .set W_DUTY,    13              # ring 3: as spin, until S_BUDGET is used up; then halted until the next period

        .set TURN,      10000
        .set KERNEL_TURN, 1000
        .set LINES,     1024
        .set LEAVES,    64
        .set BUCKETS,   96
        .set PERIOD,    10000000        # of duty: ticks of the local APIC's timer, which QEMU and KVM run at 1 GHz
        .set GAP,       200000          # ticks of the time stamp counter: some 0.1 ms
        .set BELL,      0x40            # interrupt vectors: the serial line,
        .set IPI,       0x41            # another vCPU,
        .set TIMER,     0x42            # the local APIC's timer
        .set SPURIOUS,  0xff
        .set LAPIC,     0xfee00000
        .set IOAPIC,    0xfec00000
        .set NOWHERE,   0xd0000000      # no RAM, no device
        .set UART,      0x3f8           # the first serial port, interrupt line 4
        .set FW_CFG,    0x514           # its DMA register: two big-endian halves

        .section .text
        .globl rom

# ---- What both kinds of code share; \di is the name of a pointer's register there
        .macro set_up_devices di
        mov al, 0xff                    # both old interrupt controllers masked
        out 0x21, al
        out 0xa1, al
        mov edi, IOAPIC                 # line 4: to everybody, as BELL
        mov dword ptr [\di], 0x19
        mov dword ptr [\di + 0x10], 0xff000000
        mov dword ptr [\di], 0x18
        mov dword ptr [\di + 0x10], BELL
        mov edx, UART + 3               # 8 bits a byte
        mov al, 3
        out dx, al
        mov edx, UART + 4               # let its interrupts through
        mov al, 0x0b
        out dx, al
        mov edx, UART + 1               # one for each byte received
        mov al, 1
        out dx, al
        .endm

        .macro local_apic di
        mov edi, LAPIC
        mov dword ptr [\di + 0x0f0], 0x100 + SPURIOUS   # on
        mov dword ptr [\di + 0x350], 0x10000            # LINT0 masked
        mov dword ptr [\di + 0x360], 0x00400            # LINT1 is NMI: nobody sends one, and if so it is to be told
        .endm

        .macro wake_others di, bits, magic=0x3230
        mov dword ptr ds:[CTRL + C_BITS], \bits
        mov dword ptr ds:[CTRL + C_TICKET], 0
        mov dword ptr ds:[CTRL + C_SERVING], 0
        inc dword ptr ds:[CTRL + C_BOOTS]
        mov edi, LAPIC
        mov dword ptr [\di + 0x300], 0x000c4500         # INIT to all but me, then twice start-up at 0xF0 << 12
        mov dword ptr [\di + 0x300], 0x000c46f0
        mov dword ptr [\di + 0x300], 0x000c46f0
        mov dword ptr ds:[CTRL + C_MAGIC + 4], 0x32304241       # "AB02"
        mov dword ptr ds:[CTRL + C_MAGIC], 0x4c4d564b           # "KVML"
        .endm

        .macro end_of_interrupt di
        mov edi, LAPIC
        mov dword ptr [\di + 0x0b0], 0
        .endm

        .macro empty_serial_line        # or it would not ring again
1:      mov edx, UART + 5
        in  al, dx
        test al, 1
        jz  2f
        mov edx, UART
        in  al, dx
        jmp 1b
2:
        .endm

        .macro answer_questions ax, si, bp
        mov eax, [\bp + S_ASK]
        push \ax
        lea \si, [\bp + S_LEAVES]
        mov edi, [\bp + S_COUNT]
1:      mov eax, [\si]
        mov ecx, [\si + 4]
        cpuid
        mov [\si + 8], eax
        mov [\si + 12], ebx
        mov [\si + 16], ecx
        mov [\si + 20], edx
        add \si, 24
        dec edi
        jnz 1b
        pop \ax
        mov [\bp + S_TOLD], eax
        .endm

        .macro exceptions target        # 16 bytes each, from an address that is a multiple of 16
        .set v, 0
        .rept 32
        .if (v != 8) && (v < 10 || v > 14) && (v != 17) && (v != 21) && (v != 29) && (v != 30)
        push 0                          # for the others the CPU pushes an error code
        .endif
        push v
        jmp \target
        .p2align 4, 0x90
        .set v, v + 1
        .endr
        .endm

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
        mov eax, 0x80000000
        cpuid
        cmp eax, 0x80000001
        jb  short_mode
        mov eax, 0x80000001
        cpuid
        test edx, 1 << 29               # long mode
        jz  short_mode
        test esi, 0x100
        jz  2f
        mov dword ptr [PML4], PML4 + 0x1007             # present, writable, user
        mov dword ptr [PML4 + 0x1000], PML4 + 0x2007    # the first GiB
        mov dword ptr [PML4 + 0x1018], PML4 + 0x3007    # the fourth
        mov edi, PML4 + 0x2000
        mov eax, 0x87                   # 2 MiB pages: 32 MiB of RAM, with the ROM below 1 MiB
1:      mov [edi], eax
        add eax, 0x200000
        add edi, 8
        cmp eax, 0x2000087
        jb  1b
        mov dword ptr [PML4 + 0x3000 + 128 * 8], NOWHERE + 0x87
        mov dword ptr [PML4 + 0x3000 + 502 * 8], IOAPIC + 0x87
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
        imul ebp, ebx, SLOT_SIZE
        add ebp, SLOTS
        lea rsp, [rbp + S_TOP]
        mov [rbp + S_APIC], ebx
        mov dword ptr [rbp + S_ACK], 0xffffffff
        mov dword ptr [rbp + S_PANIC], 0
        call own_descriptors
        call steal_record
        local_apic rdi
        test esi, 0x100
        jz  start_vcpu
        call interrupt_table
        set_up_devices rdi
        wake_others rdi, 64
start_vcpu:
        lidt [idtr]
        mov dword ptr [rbp + S_ALIVE], 1

# ---- The loop: look for news, do one turn of the work. Interrupts are on only while halted.
next:   mov eax, [rbp + S_CALL]
        mov [rbp + S_SEEN], eax         # first; what is asked for after it raises S_CALL again
        mov eax, [rbp + S_ASK]
        cmp eax, [rbp + S_TOLD]
        jne answer
        mov eax, [rbp + S_WORK]
        cmp eax, [rbp + S_ACK]
        je  turn
        xor edx, edx
        mov [rbp + S_GAP_MAX], rdx
        mov edi, LAPIC
        mov [rdi + 0x380], edx          # the timer stops
        mov [rbp + S_ACK], eax
turn:   mov eax, [rbp + S_ACK]
        mov esi, [rbp + S_PARAM]
        cmp eax, W_DUTY
        ja  idle
        jmp qword ptr [works + rax * 8]

again:  mov eax, [rbp + S_CALL]         # after a turn in ring 0
        cmp eax, [rbp + S_SEEN]
        jne next
        jmp turn

answer: answer_questions rax, rsi, rbp
        jmp next

idle:   sti
        hlt                             # goes on at irq_bell or irq_ipi
        jmp next

irq_bell:                               # IF is off again; the frame is dropped: KVM's emulator has no IRET
        end_of_interrupt rdi
        empty_serial_line
        inc qword ptr [rbp + S_TURNS + 8 * W_IDLE]
        jmp ring0
irq_ipi:
        end_of_interrupt rdi
        inc qword ptr [rbp + S_IPIS]
        jmp ring0
irq_timer:
        end_of_interrupt rdi
        mov qword ptr [rbp + S_USED], 0
ring0:
irq_spurious:
        lea rsp, [rbp + S_TOP]
        jmp next

kernel_spin:
        mov ecx, KERNEL_TURN
1:      dec ecx
        jnz 1b
        inc qword ptr [rbp + S_TURNS + 8 * W_KERNEL_SPIN]
        jmp again

work_cpuid:
        xor eax, eax
        cpuid
        inc qword ptr [rbp + S_TURNS + 8 * W_CPUID]
        jmp again

work_msr:
        mov ecx, 0x1b
        rdmsr
        inc qword ptr [rbp + S_TURNS + 8 * W_MSR]
        jmp again

port_io:
        out 0x80, al
        inc qword ptr [rbp + S_TURNS + 8 * W_PORT_IO]
        jmp again

mmio:   mov edx, NOWHERE
        mov eax, [rdx]
        inc qword ptr [rbp + S_TURNS + 8 * W_MMIO]
        jmp again

work_ipi:
        imul edx, esi, SLOT_SIZE
        mov rbx, [rdx + SLOTS + S_IPIS]
        shl esi, 24
        mov edi, LAPIC
        mov [rdi + 0x310], esi
        mov dword ptr [rdi + 0x300], 0x4000 + IPI
1:      cmp rbx, [rdx + SLOTS + S_IPIS]
        jne 2f
        mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  1b
        jmp next
2:      inc qword ptr [rbp + S_TURNS + 8 * W_IPI]
        jmp again

device: shl esi, 10                     # read that many bytes of the item 0, which has four: QEMU writes zeros for the rest
        bswap esi
        mov dword ptr [rbp + S_DMA], 0x0a000000         # select item 0, read it
        mov [rbp + S_DMA + 4], esi
        mov eax, AREA
        bswap rax
        mov [rbp + S_DMA + 8], rax
        xor eax, eax
        mov edx, FW_CFG
        out dx, eax
        lea eax, [rbp + S_DMA]
        bswap eax
        add edx, 4
        out dx, eax                     # done when this comes back
        inc qword ptr [rbp + S_TURNS + 8 * W_DEVICE]
        jmp again

stop:   cli
        hlt
        jmp stop

# ---- Ring 3: guest mode and nothing else
spin:   mov ecx, USER + (user_spin - user_code)
start_clock:
        rdtsc
        mov [rbp + S_TSC], eax
        mov [rbp + S_TSC + 4], edx
        jmp enter_user
duty:   mov edi, LAPIC
        cmp dword ptr [rdi + 0x380], 0
        jne 1f
        mov dword ptr [rdi + 0x3e0], 0x0b               # each tick counts,
        mov dword ptr [rdi + 0x320], 0x20000 + TIMER    # over and over
        mov dword ptr [rdi + 0x380], PERIOD
1:      mov rax, [rbp + S_BUDGET]
        mov ecx, USER + (user_duty - user_code)
        cmp [rbp + S_USED], rax
        jb  start_clock
        jmp idle
memory: mov r9d, AREA
        mov r10d, esi
        shl r10, 10
        add r10, r9
        mov rsi, r9
        mov ecx, USER + (user_memory - user_code)
        jmp enter_user
lock_:  mov r9d, CTRL + C_TICKET
        mov r10d, CTRL + C_SERVING
        mov ecx, USER + (user_lock - user_code)
        jmp enter_user
ping_pong:
        mov r10d, esi
        and r10d, 1
        shr esi, 1
        imul r9d, esi, SLOT_SIZE
        add r9, SLOTS + S_BALL
        mov ecx, USER + (user_ping_pong - user_code)
enter_user:
        mov r11d, 0x3002                # flags of ring 3: no interrupts, I/O allowed
        sysretq

user_code:                              # runs at USER
        .macro look_at_clock            # rcx: time since the last turn
        rdtsc
        shl rdx, 32
        or  rax, rdx
        mov rcx, rax
        sub rcx, [rbp + S_TSC]
        mov [rbp + S_TSC], rax
        bsr rdx, rcx                    # into its bucket
        mov r8, rcx
        mov r9, rcx
        lea ecx, [rdx - 2]
        shr r8, cl
        lea edx, [r8 + 4 * rdx - 4 - 4 * 12]
        mov rcx, r9
        xor r8d, r8d
        cmp edx, 0
        cmovl edx, r8d
        mov r8d, BUCKETS - 1
        cmp edx, r8d
        cmovg edx, r8d
        inc dword ptr [rbp + S_TAIL + 4 * rdx]
        cmp rcx, GAP
        jb  8f
        add [rbp + S_GAP_SUM], rcx
        inc qword ptr [rbp + S_GAPS]
        cmp rcx, [rbp + S_GAP_MAX]
        jbe 9f
        mov [rbp + S_GAP_MAX], rcx
        jmp 9f
8:
        .endm

user_spin:
        look_at_clock
9:      mov esi, TURN
2:      dec esi
        jnz 2b
        inc qword ptr [rbp + S_TURNS + 8 * W_SPIN]
        mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  user_spin
        jmp user_leave

user_duty:
        look_at_clock
        add [rbp + S_USED], rcx         # a gap is no work
9:      mov rax, [rbp + S_BUDGET]
        cmp [rbp + S_USED], rax
        jae user_leave
        mov esi, TURN
2:      dec esi
        jnz 2b
        inc qword ptr [rbp + S_TURNS + 8 * W_DUTY]
        mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  user_duty
        jmp user_leave

user_memory:                            # rsi: where it is, r9 and r10: first and last
        mov ecx, LINES
1:      mov rax, [rsi]
        add rsi, 64
        cmp rsi, r10
        jb  2f
        mov rsi, r9
2:      dec ecx
        jnz 1b
        inc qword ptr [rbp + S_TURNS + 8 * W_MEMORY]
        mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  user_memory
        jmp user_leave

user_lock:                              # esi: rounds to hold it
        mov eax, 1
        lock xadd [r9], eax
1:      cmp eax, [r10]                  # whoever has a ticket waits for its turn, news or not, or the lock would never open again
        je  2f
        pause
        jmp 1b
2:      mov ecx, esi
        inc ecx
3:      dec ecx
        jnz 3b
        inc dword ptr [r10]
        inc qword ptr [rbp + S_TURNS + 8 * W_LOCK]
        mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  user_lock
        jmp user_leave

user_ping_pong:                         # r9: the ball, r10: the side that we are on
        mov eax, [r9]
        mov ecx, eax
        and ecx, 1
        cmp ecx, r10d
        jne 1f
        inc eax
        mov [r9], eax
        inc qword ptr [rbp + S_TURNS + 8 * W_PING_PONG]
        jmp user_ping_pong
1:      mov eax, [rbp + S_CALL]
        cmp eax, [rbp + S_SEEN]
        je  user_ping_pong
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

steal_record:                           # where KVM is above us and offers it: Documentation/virt/kvm/x86/msr.rst
        mov dword ptr [rbp + S_STEALS], 0
        mov eax, 0x40000000
        cpuid
        cmp ebx, 0x4b4d564b             # "KVMK"
        jne 1f
        mov eax, 0x40000001
        cpuid
        test eax, 1 << 5
        jz  1f
        lea eax, [rbp + S_STEAL + 1]
        xor edx, edx
        mov ecx, 0x4b564d03             # MSR_KVM_STEAL_TIME
        wrmsr
        mov dword ptr [rbp + S_STEALS], 1
1:      ret

# ---- Set-up, by the BSP
interrupt_table:
        mov edi, IDT
        xor ecx, ecx
1:      mov edx, 0x8e00                 # interrupt gate
        mov eax, ecx
        shl eax, 4
        add eax, offset exceptions64
        inc edx                         # exceptions on stack 1
        cmp ecx, 32
        jb  2f
        dec edx
        mov eax, offset irq_bell
        cmp ecx, BELL
        je  2f
        mov eax, offset irq_ipi
        cmp ecx, IPI
        je  2f
        mov eax, offset irq_timer
        cmp ecx, TIMER
        je  2f
        mov eax, offset irq_spurious
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
        mov esi, offset user_code
        mov edi, USER
        mov ecx, offset user_end - user_code
        rep movsb
        mov esi, edx
        ret

# ---- An exception stops its vCPU and leaves word of it, but for the one that ring 3 leaves by.
# Stack: vector, error code, rip, ...
panic:  cmp qword ptr [rsp + 16], USER + (user_leave - user_code)
        je  ring0
        mov rax, [rsp + 8]
        mov [rbp + S_ERROR], eax
        mov rax, [rsp + 16]
        mov [rbp + S_RIP], rax
        mov rax, cr2
        mov [rbp + S_CR2], rax
        mov rax, [rsp]
        inc eax
        mov [rbp + S_PANIC], eax
        jmp stop

        .p2align 4
exceptions64:
        exceptions panic

# ---- 32 bit, for good: no paging, no ring 3, works 0 and 1
        .code32
short_mode:
        mov eax, 1
        cpuid
        shr ebx, 24
        imul ebp, ebx, SLOT_SIZE
        add ebp, SLOTS
        lea esp, [ebp + S_TOP]
        mov [ebp + S_APIC], ebx
        mov dword ptr [ebp + S_ACK], 0xffffffff
        mov dword ptr [ebp + S_PANIC], 0
        mov dword ptr [ebp + S_STEALS], 0
        local_apic edi
        test esi, 0x100
        jz  4f
        mov edi, IDT
        xor ecx, ecx
1:      mov eax, ecx
        shl eax, 4
        add eax, offset exceptions32
        cmp ecx, 32
        jb  2f
        mov eax, offset irq32
2:      mov edx, eax
        and edx, 0xffff
        or  edx, 0x300000
        mov [edi], edx
        and eax, 0xffff0000
        or  eax, 0x8e00
        mov [edi + 4], eax
        add edi, 8
        inc ecx
        cmp ecx, 256
        jb  1b
        set_up_devices edi
        wake_others edi, 32
4:      lidt [idtr]
        mov dword ptr [ebp + S_ALIVE], 1

next32: mov eax, [ebp + S_CALL]
        mov [ebp + S_SEEN], eax
        mov eax, [ebp + S_ASK]
        cmp eax, [ebp + S_TOLD]
        je  4f
        answer_questions eax, esi, ebp
        jmp next32
4:      mov eax, [ebp + S_WORK]
        mov [ebp + S_ACK], eax
        cmp eax, W_SPIN
        je  spin32
        sti
        hlt
        jmp next32

spin32: mov ecx, TURN
1:      dec ecx
        jnz 1b
        add dword ptr [ebp + S_TURNS + 8 * W_SPIN], 1
        adc dword ptr [ebp + S_TURNS + 8 * W_SPIN + 4], 0
        mov eax, [ebp + S_CALL]
        cmp eax, [ebp + S_SEEN]
        je  spin32
        jmp next32

irq32:  end_of_interrupt edi
        empty_serial_line
        add dword ptr [ebp + S_TURNS + 8 * W_IDLE], 1
        adc dword ptr [ebp + S_TURNS + 8 * W_IDLE + 4], 0
        lea esp, [ebp + S_TOP]
        jmp next32

panic32:                                # stack: vector, error code, eip, ...
        mov eax, [esp + 4]
        mov [ebp + S_ERROR], eax
        mov eax, [esp + 8]
        mov [ebp + S_RIP], eax
        mov dword ptr [ebp + S_RIP + 4], 0
        mov eax, [esp]
        inc eax
        mov [ebp + S_PANIC], eax
1:      cli
        hlt
        jmp 1b

        .p2align 4
exceptions32:
        exceptions panic32

        .p2align 3
works:  .quad idle, spin, kernel_spin, work_cpuid, work_msr, port_io, mmio, memory, lock_, work_ipi, ping_pong, device, stop, duty
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
