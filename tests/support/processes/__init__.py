"""Many processes at one database, in one virtual time: each can be killed, stopped for a while, and started late."""
