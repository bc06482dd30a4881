"""The `meshserve` command. Speaks to services over the wire only; `up` is the one verb that starts any."""
