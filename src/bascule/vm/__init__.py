"""A VM's definition: what the user writes, checked, and nothing that depends on a host. Pure.

- `definition`: the VM as frozen dataclasses, and its machine type pinned to a version
- `parse`: the TOML file; all mistakes in it are reported together
- `serialise`: the definition as JSON for the journal and other agents, and as TOML for the user
- `reader`, `rules`: how tables are read, and what each value may be

Words: a *definition* says what the VM is and is the same on every host; an *alias* such as `q35` means another
machine with each QEMU version, a *versioned* machine type such as `pc-q35-7.2` is the same machine for ever.
"""
