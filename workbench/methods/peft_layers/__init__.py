"""What layers and schedules of PEFT need to be right on every base."""
