"""Several hosts on one machine: network namespaces, a switch, real agents, and the guest that moves between them.

- `laboratory`: `Lab`, the class to use from tests, the demo and the command line
- `names`, `places`: what everything is called and where it lies; nothing in here is guessed from a record
- `topology`, `links`, `namespaces`: the network as batches for `ip` and `tc`, link rates, cuts, and who runs them
- `agents`, `unix_http`: the real agents, started inside their host's namespace and waited for
- `construction`, `removal`, `status`: up, down (also after `kill -9` of the lab), and how it is
- `locking`, `state`, `processes`, `interrupts`, `requirements`: what makes these safe to break off anywhere
- `guest_image`, `guest`: the small Linux with a workload that the lab's VMs boot

Words: a *member* of a lab is one of its namespaces: the hosts h1, h2, ..., the `client` and the switch `sw`.
The root namespace never sees an interface of a lab.
"""
