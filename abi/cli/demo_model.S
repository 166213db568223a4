/* BITNET_DEMO_MODEL: path of the GGUF file, a string literal. 64: the alignment that the kernels like best. */
    .section .rodata
    .globl bitnet_demo_model_begin
    .globl bitnet_demo_model_end
    .hidden bitnet_demo_model_begin
    .hidden bitnet_demo_model_end
    .type bitnet_demo_model_begin, %object
    .type bitnet_demo_model_end, %object
    .balign 64
bitnet_demo_model_begin:
    .incbin BITNET_DEMO_MODEL
bitnet_demo_model_end:
    .byte 0
    .size bitnet_demo_model_begin, bitnet_demo_model_end - bitnet_demo_model_begin
    .size bitnet_demo_model_end, 1
    .section .note.GNU-stack, "", %progbits
