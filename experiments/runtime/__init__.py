"""The ground that everything runs on: seeds, files, memory, threads and processes."""
