return rewind(argument())
