"""The command line: commands, their progress and their output.

    main        entry point: errors become sentences and exit statuses
    lazy        a click group that imports a command's module only when it is used
    options     options and parameter types shared by the commands; imports nothing but click
    client      HTTP over the agent's unix socket, and its server-sent events
    follow      watch one move to its true end, whatever happens to the connection or the user's patience
    progress    what that looks like: a live bar on a terminal, one line per change elsewhere
    output      text, tables, JSON and errors on the way out
    completion  `bascule completion SHELL`, and names completed through the agent
    console     `bascule vm console`: a terminal joined to a VM's serial line

Every other file holds the commands that it is named after. Only `click` may be imported on the way to
`bascule --help`; a test holds that.
"""
