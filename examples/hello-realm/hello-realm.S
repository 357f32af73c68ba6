// The smallest useful Realm guest: says what RSI tells it, echoes lines, and powers off.
//
// It is a raw arm64 Image without anything below it: EL1, MMU off, no library. All of its memory (stack, line buffer and
// the page for the RSI realm configuration) lies inside the image, so that nothing is touched that was not loaded.
//
//   hello-realm: RSI 1.0, ipa width 48
//   hello-realm: RIM 3f2a...
//   > hi
//   hello-realm: you said: hi
//
// Ctrl-D or "quit" powers off. In an ordinary guest (RSI_VERSION answers -1) it says so and does the same, with PSCI
// through HVC instead of SMC and the devices at their plain addresses.
//
// Device accesses use one register without write-back: an access that leaves the guest must describe itself completely
// (ESR_EL2.ISV), because whoever emulates the device cannot read a Realm's code. With the MMU off every access is to
// Device memory, so all of them are aligned.

// Addresses and interrupt of Xen's Arm guests. Other boards can be had with --defsym.
        .ifndef UART
        .equ    UART, 0x22000000
        .equ    UART_INTID, 32
        .equ    GICD, 0x03001000
        .equ    GICR, 0x03020000
        .endif

        .equ    UART_DR, 0x00
        .equ    UART_FR, 0x18
        .equ    UART_IMSC, 0x38
        .equ    FR_RXFE, 4              // bit numbers
        .equ    FR_TXFF, 5
        .equ    IRQ_RX_RT, 0x50         // receive and receive timeout

        .equ    GICD_CTLR, 0x0000
        .equ    GICD_IGROUPR, 0x0080
        .equ    GICD_ISENABLER, 0x0100
        .equ    GICD_IPRIORITYR, 0x0400
        .equ    GICD_IROUTER, 0x6000
        .equ    GICR_WAKER, 0x0014
        .equ    INTID_SPURIOUS, 1020    // this and above: nothing to acknowledge

        .equ    RSI_VERSION, 0xC4000190
        .equ    RSI_MEASUREMENT_READ, 0xC4000192
        .equ    RSI_REALM_CONFIG, 0xC4000196
        .equ    RSI_1_0, 0x10000
        .equ    PSCI_SYSTEM_OFF, 0x84000008

        .equ    CONFIG_IPA_WIDTH, 0x00
        .equ    CONFIG_HASH_ALGO, 0x08

        .equ    LINE_MAX, 120
        .equ    CTRL_D, 4

// Kept in registers for good:
//   x19 UART   x20 not 0: PSCI by HVC   x21 address bit of unprotected memory (0: none)
//   x22 1: probing RSI, 2: reporting an exception

        .text
        .globl  _start
_start:
        b       begin                   // code0
        .long   0                       // code1
        .quad   0                       // text_offset
        .quad   _end - _start           // image_size
        .quad   0x0a                    // flags: little endian, 4 KiB pages, anywhere in memory
        .quad   0, 0, 0                 // reserved
        .ascii  "ARM\x64"
        .long   0                       // no PE header

begin:
        msr     daifset, #0xf
        mov     x19, #0
        mov     x20, #0
        mov     x21, #0
        adr     x0, stack_top
        mov     sp, x0
        adr     x0, vectors
        msr     vbar_el1, x0
        isb

        mov     x22, #1                 // where there is no SMC it is undefined, which means "no" as well
        ldr     x0, =RSI_VERSION
        mov     x1, #RSI_1_0
        smc     #0
        mov     x22, #0
        cbnz    x0, plain_guest
        mov     x23, x1

        ldr     x0, =RSI_REALM_CONFIG
        adr     x1, realm_config
        smc     #0
        cbnz    x0, power_off           // without the IPA width there is no console to complain on
        adr     x0, realm_config
        ldr     x24, [x0, #CONFIG_IPA_WIDTH]
        sub     x1, x24, #1
        mov     x21, #1
        lsl     x21, x21, x1
        bl      set_up_devices

        adr     x0, text_rsi
        bl      print
        ubfx    x0, x23, #16, #15
        bl      print_decimal
        mov     w0, #'.'
        bl      put
        and     x0, x23, #0xffff
        bl      print_decimal
        adr     x0, text_ipa_width
        bl      print
        mov     x0, x24
        bl      print_decimal
        bl      new_line
        bl      print_rim
        b       serve

plain_guest:
        mov     x20, #1
        bl      set_up_devices
        adr     x0, text_not_a_realm
        bl      print

// Read lines and answer them, for ever. x25 length of the line, x26 the previous character.
serve:
        mov     x26, #0
prompt:
        adr     x0, text_prompt
        bl      print
        mov     x25, #0
next:
        bl      get
        mov     x1, x26
        mov     x26, x0
        cmp     w0, #'\n'
        b.ne    1f
        cmp     w1, #'\r'               // the second half of CR LF
        b.eq    next
        b       line_complete
1:      cmp     w0, #'\r'
        b.eq    line_complete
        cmp     w0, #CTRL_D
        b.eq    end_of_input
        cmp     w0, #0x7f
        b.eq    rub_out
        cmp     w0, #'\b'
        b.eq    rub_out
        cmp     w0, #' '
        b.lo    next                    // other control characters mean nothing here
        cmp     x25, #LINE_MAX
        b.hs    ring
        adr     x1, line
        strb    w0, [x1, x25]
        add     x25, x25, #1
        bl      put
        b       next

rub_out:
        cbz     x25, next
        sub     x25, x25, #1
        adr     x0, text_rub_out
        bl      print
        b       next

ring:
        mov     w0, #7                  // BEL
        bl      put
        b       next

line_complete:
        bl      new_line
        bl      answer
        cbz     x0, power_off
        b       prompt

end_of_input:
        bl      new_line
        cbz     x25, power_off
        bl      answer
        b       power_off

// Answer the line. x0: 0 if it asked for the end.
answer:
        stp     x29, x30, [sp, #-16]!
        cmp     x25, #4
        b.ne    1f
        adr     x0, line                // 16-byte aligned: one word to compare
        ldr     w1, [x0]
        ldr     w2, =0x74697571         // "quit"
        cmp     w1, w2
        b.ne    1f
        mov     x0, #0
        b       2f
1:      adr     x0, line
        strb    wzr, [x0, x25]
        adr     x0, text_you_said
        bl      print
        adr     x0, line
        bl      print
        bl      new_line
        mov     x0, #1
2:      ldp     x29, x30, [sp], #16
        ret

power_off:
        ldr     x0, =PSCI_SYSTEM_OFF
        cbnz    x20, 1f
        smc     #0
        b       2f
1:      hvc     #0
2:      wfi                             // never reached
        b       2b

// The devices: UART, and the GIC so that WFI ends when somebody types. Interrupts stay masked (PSTATE.I): a pending one
// ends WFI all the same, and is taken by reading ICC_IAR1_EL1, so that none can slip in between looking and waiting.
set_up_devices:
        ldr     x19, =UART
        orr     x19, x19, x21

        ldr     x0, =GICR
        orr     x0, x0, x21
        ldr     w1, [x0, #GICR_WAKER]
        bic     w1, w1, #2              // ProcessorSleep
        str     w1, [x0, #GICR_WAKER]
1:      ldr     w1, [x0, #GICR_WAKER]
        tbnz    w1, #2, 1b              // ChildrenAsleep

        ldr     x0, =GICD
        orr     x0, x0, x21
        mov     w1, #0x12               // ARE_NS, EnableGrp1A
        str     w1, [x0, #GICD_CTLR]
        mov     w2, #(1 << (UART_INTID % 32))
        mov     w1, #-1
        str     w1, [x0, #(GICD_IGROUPR + UART_INTID / 32 * 4)]
        ldr     w1, =0xa0a0a0a0
        str     w1, [x0, #(GICD_IPRIORITYR + UART_INTID / 4 * 4)]
        ldr     x1, =(GICD_IROUTER + UART_INTID * 8)
        add     x1, x0, x1
        str     xzr, [x1]               // affinity 0.0.0.0: this vCPU
        str     w2, [x0, #(GICD_ISENABLER + UART_INTID / 32 * 4)]

        mrs     x0, S3_0_C12_C12_5      // ICC_SRE_EL1
        tbnz    x0, #0, 2f
        orr     x0, x0, #1
        msr     S3_0_C12_C12_5, x0
        isb
2:      mov     x0, #0xf0
        msr     S3_0_C4_C6_0, x0        // ICC_PMR_EL1
        mov     x0, #1
        msr     S3_0_C12_C12_7, x0      // ICC_IGRPEN1_EL1
        isb

        mov     w1, #IRQ_RX_RT
        str     w1, [x19, #UART_IMSC]
        ret

// w0: the next character typed. Waits for it.
get:
        ldr     w0, [x19, #UART_FR]
        tbz     w0, #FR_RXFE, 2f
        wfi
        mrs     x0, S3_0_C12_C12_0      // ICC_IAR1_EL1
        dsb     sy
        cmp     w0, #INTID_SPURIOUS
        b.hs    get
        msr     S3_0_C12_C12_1, x0      // ICC_EOIR1_EL1: it may come back until the last character is read; so be it
        isb
        b       get
2:      ldr     w0, [x19, #UART_DR]
        and     w0, w0, #0xff
        ret

// Print the character w0. Only x1 is changed.
put:
        ldr     w1, [x19, #UART_FR]
        tbnz    w1, #FR_TXFF, put
        str     w0, [x19, #UART_DR]
        ret

// Print the text at x0, which ends with a zero.
print:
        stp     x29, x30, [sp, #-32]!
        str     x27, [sp, #16]
        mov     x27, x0
1:      ldrb    w0, [x27]
        cbz     w0, 2f
        bl      put
        add     x27, x27, #1
        b       1b
2:      ldr     x27, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret

new_line:
        stp     x29, x30, [sp, #-16]!
        mov     w0, #'\r'
        bl      put
        mov     w0, #'\n'
        bl      put
        ldp     x29, x30, [sp], #16
        ret

// Print x0 as a decimal number.
print_decimal:
        stp     x29, x30, [sp, #-16]!
        mov     x2, #10
        udiv    x3, x0, x2
        msub    x0, x3, x2, x0
        stp     x0, xzr, [sp, #-16]!
        mov     x0, x3
        cbz     x3, 1f
        bl      print_decimal
1:      ldp     x0, xzr, [sp], #16
        add     w0, w0, #'0'
        bl      put
        ldp     x29, x30, [sp], #16
        ret

// Print the lowest x1 digits of x0 in hexadecimal.
print_hex:
        stp     x29, x30, [sp, #-32]!
        stp     x27, x28, [sp, #16]
        mov     x27, x0
        lsl     x28, x1, #2
1:      sub     x28, x28, #4
        lsr     x0, x27, x28
        and     w0, w0, #0xf
        add     w0, w0, #'0'
        cmp     w0, #'9'
        b.ls    2f
        add     w0, w0, #('a' - '9' - 1)
2:      bl      put
        cbnz    x28, 1b
        ldp     x27, x28, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret

// The Realm Initial Measurement: RSI gives 64 bytes in x1..x8, lowest byte first; the hash says how many of them count.
print_rim:
        stp     x29, x30, [sp, #-32]!
        stp     x27, x28, [sp, #16]
        adr     x0, text_rim
        bl      print
        ldr     x0, =RSI_MEASUREMENT_READ
        mov     x1, #0
        smc     #0
        adr     x27, measurement
        stp     x1, x2, [x27]
        stp     x3, x4, [x27, #16]
        stp     x5, x6, [x27, #32]
        stp     x7, x8, [x27, #48]
        cbz     x0, 1f
        adr     x0, text_unavailable
        bl      print
        b       3f
1:      adr     x0, realm_config
        ldrb    w1, [x0, #CONFIG_HASH_ALGO]
        mov     x28, #32                // 0: SHA-256
        cbz     w1, 2f
        mov     x28, #64                // 1: SHA-512
        cmp     w1, #2                  // 2: SHA-384
        b.ne    2f
        mov     x28, #48
2:      ldrb    w0, [x27]
        mov     x1, #2
        bl      print_hex
        add     x27, x27, #1
        sub     x28, x28, #1
        cbnz    x28, 2b
3:      bl      new_line
        ldp     x27, x28, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret

// Exceptions: none is expected, but for an undefined SMC while RSI is probed.
unexpected:
        mov     x28, x0                 // number of the vector
        mrs     x1, esr_el1
        lsr     x2, x1, #26
        cmp     x22, #1
        b.ne    1f
        cbnz    x2, 1f                  // exception class 0: undefined instruction
        mrs     x1, elr_el1
        add     x1, x1, #4
        msr     elr_el1, x1
        mov     x0, #-1
        eret
1:      cbz     x19, power_off          // no console yet
        cmp     x22, #2
        b.eq    power_off               // while reporting another one
        mov     x22, #2
        adr     x0, stack_top           // the stack may be what is wrong
        mov     sp, x0
        adr     x0, text_exception
        bl      print
        mov     x0, x28
        bl      print_decimal
        adr     x0, text_esr
        bl      print
        mrs     x0, esr_el1
        mov     x1, #16
        bl      print_hex
        adr     x0, text_elr
        bl      print
        mrs     x0, elr_el1
        mov     x1, #16
        bl      print_hex
        adr     x0, text_far
        bl      print
        mrs     x0, far_el1
        mov     x1, #16
        bl      print_hex
        bl      new_line
        b       power_off

        .ltorg

text_rsi:         .asciz "hello-realm: RSI "
text_ipa_width:   .asciz ", ipa width "
text_rim:         .asciz "hello-realm: RIM "
text_unavailable: .asciz "unavailable"
text_not_a_realm: .asciz "hello-realm: not a Realm\r\n"
text_prompt:      .asciz "> "
text_you_said:    .asciz "hello-realm: you said: "
text_rub_out:     .asciz "\b \b"
text_exception:   .asciz "\r\nhello-realm: unexpected exception, vector "
text_esr:         .asciz ", esr "
text_elr:         .asciz ", elr "
text_far:         .asciz ", far "

        .balign 2048
vectors:
        .set    number, 0
        .rept   16
        .balign 128
        mov     x0, #number
        b       unexpected
        .set    number, number + 1
        .endr
        .balign 128

        .balign 16
line:   .zero   LINE_MAX + 8            // one byte for the closing zero
        .balign 16
measurement:
        .zero   64
        .zero   1024
stack_top:

        .balign 4096
realm_config:
        .zero   4096
_end:
