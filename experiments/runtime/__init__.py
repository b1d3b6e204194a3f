"""What everything runs on: seeds, files, processes."""
