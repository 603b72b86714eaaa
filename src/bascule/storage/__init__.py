"""Disk images and saved states: files that both hosts see.

- `image`: what an image is, whether this host's QEMU can use it, and whether two hosts mean the same one
- `access`: what an unprivileged user may do with a path
- `image_lock`: who has an image open, by QEMU's own locks, and QEMU's complaints about them in plain words
- `state_header`: the format of a saved state
- `state_file`: writing one from a pipe; `state_reader`: checking one before use
- `shared_directory`: free space, and how two hosts prove that they see the same directory
- `stoppable`: work in a thread that ends before its caller does

Words: a *saved state* is the memory and devices of a VM in one file, for a Quick Migration; its *stream* is what QEMU
wrote. Functions that are not coroutines block on the file system: call them in a thread.
"""
