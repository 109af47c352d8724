// A layer of Vulkan that makes a device fail when it is told to: the first character of the file that FAULT_FILE names says how,
// and it is read at every call that can fail.
//
//   l  the device is lost             (vkQueueSubmit, vkQueueSubmit2)
//   m  the device has no memory       (the same, and vkAllocateMemory)
//   h  the driver hangs               (vkQueueSubmit, vkQueueSubmit2)
//
// Only what a layer needs of Vulkan's headers is declared here, so that the test needs none. There is one instance and one
// device in a process.

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, OUT_OF_DEVICE_MEMORY = -2, INITIALIZATION_FAILED = -3, DEVICE_LOST = -4 };
enum { LOADER_INSTANCE_CREATE_INFO = 47, LOADER_DEVICE_CREATE_INFO = 48 };
enum { LAYER_LINK_INFO = 0 };

typedef void (*Function)(void);
typedef Function (*GetProcAddr)(void *object, const char *name);

// VkLayerInstanceLink and VkLayerDeviceLink, which differ in the name of `second` alone
typedef struct Link {
    struct Link *next;
    GetProcAddr first;
    GetProcAddr second;
} Link;

// the head that all structures of a chain have, and with it VkLayerInstanceCreateInfo and VkLayerDeviceCreateInfo
typedef struct Info {
    uint32_t type;
    struct Info *next;
    uint32_t function;
    Link *link;
} Info;

static GetProcAddr next_instance, next_device;
static int (*next_submit)(void *, uint32_t, const void *, uint64_t);
static int (*next_submit2)(void *, uint32_t, const void *, uint64_t);
static int (*next_allocate)(void *, const void *, const void *, void *);

static char told(void) {
    const char *path = getenv("FAULT_FILE");
    char how = 0;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        if (read(file, &how, 1) != 1)
            how = 0;
        close(file);
    }
    return how;
}

static int submitted(void) {
    switch (told()) {
    case 'l':
        return DEVICE_LOST;
    case 'm':
        return OUT_OF_DEVICE_MEMORY;
    case 'h':
        for (;;)
            pause();
    default:
        return SUCCESS;
    }
}

static int submit(void *queue, uint32_t count, const void *submits, uint64_t fence) {
    int failed = submitted();
    return failed ? failed : next_submit(queue, count, submits, fence);
}

static int submit2(void *queue, uint32_t count, const void *submits, uint64_t fence) {
    int failed = submitted();
    return failed ? failed : next_submit2(queue, count, submits, fence);
}

static int allocate(void *device, const void *info, const void *callbacks, void *memory) {
    return told() == 'm' ? OUT_OF_DEVICE_MEMORY : next_allocate(device, info, callbacks, memory);
}

// What the loader wants to be called next; it must be taken out of the chain for the layer below.
static Link *taken(const Info *create, uint32_t type) {
    for (Info *info = create->next; info; info = info->next)
        if (info->type == type && info->function == LAYER_LINK_INFO) {
            Link *link = info->link;
            info->link = link->next;
            return link;
        }
    return 0;
}

static int create_instance(const Info *create, const void *callbacks, void **instance) {
    Link *link = taken(create, LOADER_INSTANCE_CREATE_INFO);
    if (!link)
        return INITIALIZATION_FAILED;
    next_instance = link->first;
    int (*next)(const Info *, const void *, void **) = (void *)next_instance(0, "vkCreateInstance");
    return next(create, callbacks, instance);
}

static int create_device(void *physical, const Info *create, const void *callbacks, void **device) {
    Link *link = taken(create, LOADER_DEVICE_CREATE_INFO);
    if (!link)
        return INITIALIZATION_FAILED;
    next_device = link->second;
    int (*next)(void *, const Info *, const void *, void **) =
        (void *)link->first(0, "vkCreateDevice");
    int failed = next(physical, create, callbacks, device);
    if (!failed) {
        next_submit = (void *)next_device(*device, "vkQueueSubmit");
        next_submit2 = (void *)next_device(*device, "vkQueueSubmit2");
        next_allocate = (void *)next_device(*device, "vkAllocateMemory");
    }
    return failed;
}

Function vkGetDeviceProcAddr(void *device, const char *name);
Function vkGetInstanceProcAddr(void *instance, const char *name);

static Function own(const char *name) {
    static const struct {
        const char *name;
        Function function;
    } all[] = {
        {"vkGetInstanceProcAddr", (Function)vkGetInstanceProcAddr},
        {"vkGetDeviceProcAddr", (Function)vkGetDeviceProcAddr},
        {"vkCreateInstance", (Function)create_instance},
        {"vkCreateDevice", (Function)create_device},
        {"vkQueueSubmit", (Function)submit},
        {"vkQueueSubmit2", (Function)submit2},
        {"vkQueueSubmit2KHR", (Function)submit2},
        {"vkAllocateMemory", (Function)allocate},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, name))
            return all[i].function;
    return 0;
}

Function vkGetDeviceProcAddr(void *device, const char *name) {
    Function function = own(name);
    return function ? function : next_device(device, name);
}

Function vkGetInstanceProcAddr(void *instance, const char *name) {
    Function function = own(name);
    return function ? function : next_instance(instance, name);
}

// VkNegotiateLayerInterface
typedef struct {
    uint32_t type;
    void *next;
    uint32_t version;
    GetProcAddr instance, device, physical;
} Negotiation;

int vkNegotiateLoaderLayerInterfaceVersion(Negotiation *with) {
    if (with->version > 2)
        with->version = 2;
    with->instance = vkGetInstanceProcAddr;
    with->device = vkGetDeviceProcAddr;
    with->physical = 0;
    return SUCCESS;
}
