"""transformers and PEFT as they are installed, in a process of their own."""
