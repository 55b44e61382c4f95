"""What SMI says, read a second time: it shares no code with the compiler, so that both can be wrong only apart."""
