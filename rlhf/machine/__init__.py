"""What the machine is and gives: devices, threads, memory, processes, compiled loops."""
