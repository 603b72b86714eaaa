"""The soak: two weeks of an agent's work in minutes, and what grew meanwhile.

- `fake_qemu`: a QEMU without a guest in it, as a program of its own: the agents start, ask, steer and end it as the
  real one. It costs 30 ms instead of seconds, so that thousands of moves fit into minutes
- `pair`: two real agents on the loopback interface, with that QEMU and no network of their own
- `workload`: moves back and forth: live, quick, cancelled, refused
- `figures`: what is sampled of an agent, the bounds, and what has grown
- `soak`: all of it, with a pair and the fake QEMU, or in a lab with the real one
"""
