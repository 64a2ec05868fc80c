local turn, started = argument(), argument()
return rewind(turn, started)
