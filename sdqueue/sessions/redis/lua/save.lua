return save()
