"""An independent, naive detector written from docs/DETECTOR.md alone; shares no code with the kernel."""
