"""yamux without IO: many streams on one byte channel, and how two ends find each other on a line that never ends."""
