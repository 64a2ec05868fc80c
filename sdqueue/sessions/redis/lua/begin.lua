local turn, ttl = argument(), argument()
return begin(turn, ttl)
