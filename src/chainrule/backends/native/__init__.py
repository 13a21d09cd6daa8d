"""The native backend: a schedule as machine code for this processor, through LLVM."""
